package jwks

import (
	"crypto"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	strict "github.com/go-jose/go-jose/v4/json" // refuses duplicate names, compares names with case

	"gatehouse/lib/fault"
)

// MaxToken is the longest token read, in bytes.
const MaxToken = 16 << 10

const maxKeyID = 256

// Asymmetric lists every signature algorithm that needs no shared secret.
var Asymmetric = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// Header is what the protected header of a token says.
type Header struct {
	Algorithm string
	KeyID     string
	Type      string // lower case, without "application/"
}

// ParseHeader reads the header of a compact JWS without trusting it. A header
// that brings its own key or demands an extension is refused (RFC 7515,
// section 4.1.11; RFC 8725, section 3.10); jku and x5u are never followed.
// Errors are fault.Denied.
func ParseHeader(token string) (Header, error) {
	if len(token) > MaxToken {
		return Header{}, fault.New(fault.Denied, "token is too long")
	}
	first, _, _ := strings.Cut(token, ".")
	if strings.Count(token, ".") != 2 {
		return Header{}, fault.New(fault.Denied, "token is not a signed JWT")
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(first)
	if err != nil {
		return Header{}, fault.New(fault.Denied, "token is not a signed JWT")
	}
	var names map[string]strict.RawMessage
	if err := strict.Unmarshal(raw, &names); err != nil {
		return Header{}, fault.Wrap(fault.Denied, "token is not a signed JWT", err)
	}
	for _, bad := range []string{"crit", "b64", "jwk", "zip", "enc"} {
		if _, ok := names[bad]; ok {
			return Header{}, fault.New(fault.Denied, "token header has a parameter that is not accepted")
		}
	}
	var h struct {
		Alg string `json:"alg"`
		Kid string `json:"kid"`
		Typ string `json:"typ"`
	}
	if err := strict.Unmarshal(raw, &h); err != nil || h.Alg == "" || len(h.Kid) > maxKeyID {
		return Header{}, fault.New(fault.Denied, "token is not a signed JWT")
	}
	return Header{h.Alg, h.Kid, strings.TrimPrefix(strings.ToLower(h.Typ), "application/")}, nil
}

// VerifyKey checks the signature of a compact JWS by one key, a public key or
// the bytes of a shared secret, and returns the payload. Errors are
// fault.Denied.
func VerifyKey(token string, algs []string, key any) ([]byte, error) {
	h, err := ParseHeader(token)
	if err != nil {
		return nil, err
	}
	if !allowed(h.Algorithm, algs) || !fits(h.Algorithm, key) {
		return nil, fault.New(fault.Denied, "token is signed with an algorithm that is not accepted")
	}
	payload, err := verify(token, h.Algorithm, key)
	if err != nil {
		return nil, fault.Wrap(fault.Denied, "token signature is wrong", err)
	}
	return payload, nil
}

func verify(token, alg string, key any) ([]byte, error) {
	sig, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(alg)})
	if err != nil {
		return nil, err
	}
	return sig.Verify(key)
}

func allowed(alg string, algs []string) bool { return alg != "none" && slices.Contains(algs, alg) }
func symmetric(alg string) bool              { return alg == "HS256" || alg == "HS384" || alg == "HS512" }

// ParsePublicKey reads a PEM public key or certificate, as public_key of a
// configuration has it. Weak RSA keys are refused.
func ParsePublicKey(text string) (any, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("not a PEM block")
	}
	var key any
	var err error
	switch block.Type {
	case "PUBLIC KEY":
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		key, err = x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		var c *x509.Certificate
		if c, err = x509.ParseCertificate(block.Bytes); err == nil {
			key = c.PublicKey
		}
	default:
		return nil, errors.New("not a public key")
	}
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(Asymmetric, func(a string) bool { return fits(a, key) }) {
		return nil, errors.New("a key of a type that is not supported")
	}
	if !strong(key) {
		return nil, errors.New("an RSA key must have 2048 to 8192 bits")
	}
	return key, nil
}

// Claims are the registered claims of a token (RFC 7519, section 4.1; OpenID
// Connect Core, section 2). Times are seconds since 1970; 0: absent.
type Claims struct {
	Issuer          string   `json:"iss"`
	Subject         string   `json:"sub"`
	Audience        Audience `json:"aud"`
	AuthorizedParty string   `json:"azp"`
	Expires         Seconds  `json:"exp"`
	NotBefore       Seconds  `json:"nbf"`
	IssuedAt        Seconds  `json:"iat"`
	AuthTime        Seconds  `json:"auth_time"`
	Nonce           string   `json:"nonce"`
	AccessTokenHash string   `json:"at_hash"`
	CodeHash        string   `json:"c_hash"`

	Raw []byte `json:"-"` // the payload as signed
}

// Audience is a claim that is one string or a list of them.
type Audience []string

// UnmarshalJSON accepts both forms.
func (a *Audience) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		*a = make(Audience, 1)
		return strict.Unmarshal(b, &(*a)[0])
	}
	var list []string
	if err := strict.Unmarshal(b, &list); err != nil {
		return err
	}
	*a = list
	return nil
}

// Seconds is a NumericDate; fractions are cut.
type Seconds int64

// UnmarshalJSON accepts a number from 0 to 2^53.
func (s *Seconds) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	var f float64
	if err := strict.Unmarshal(b, &f); err != nil {
		return err
	}
	if f < 0 || f > 1<<53 || math.IsNaN(f) {
		return errors.New("time is out of range")
	}
	*s = Seconds(f)
	return nil
}

// ParseClaims reads a payload that Verify returned. Claims given twice are
// refused. Errors are fault.Denied.
func ParseClaims(payload []byte) (*Claims, error) {
	var any map[string]strict.RawMessage
	c := &Claims{Raw: payload}
	if err := strict.Unmarshal(payload, &any); err != nil {
		return nil, fault.Wrap(fault.Denied, "token claims cannot be read", err)
	}
	if err := strict.Unmarshal(payload, c); err != nil {
		return nil, fault.Wrap(fault.Denied, "token claims cannot be read", err)
	}
	return c, nil
}

// InTime says why a token must not be used now: exp is required, nbf and iat
// count when present. Clocks may differ by slack. Errors are fault.Denied.
func (c *Claims) InTime(now time.Time, slack time.Duration) error {
	n, s := now.Unix(), int64(slack/time.Second)
	switch {
	case c.Expires == 0:
		return fault.New(fault.Denied, "token has no expiry")
	case n >= int64(c.Expires)+s:
		return fault.New(fault.Denied, "token has expired")
	case n+s < int64(c.NotBefore):
		return fault.New(fault.Denied, "token is not valid yet")
	case n+s < int64(c.IssuedAt):
		return fault.New(fault.Denied, "token was issued in the future")
	}
	return nil
}

// HashMatches compares at_hash or c_hash with the value it stands for (OpenID
// Connect Core, section 3.1.3.6). An algorithm without a defined hash does
// not match.
func HashMatches(alg, hash, value string) bool {
	var sum []byte
	switch {
	case alg == "EdDSA":
		s := sha512.Sum512([]byte(value))
		sum = s[:]
	case strings.HasSuffix(alg, "256"):
		s := sha256.Sum256([]byte(value))
		sum = s[:]
	case strings.HasSuffix(alg, "384"):
		s := sha512.Sum384([]byte(value))
		sum = s[:]
	case strings.HasSuffix(alg, "512"):
		s := sha512.Sum512([]byte(value))
		sum = s[:]
	default:
		return false
	}
	want := base64.RawURLEncoding.EncodeToString(sum[:len(sum)/2])
	return subtle.ConstantTimeCompare([]byte(want), []byte(hash)) == 1
}

// Sign makes a compact JWS of payload, as clients do that prove themselves by
// a signed assertion (RFC 7523).
func Sign(alg, keyID string, key any, payload []byte) (string, error) {
	if k, ok := key.(crypto.Signer); ok && !fits(alg, k.Public()) {
		return "", errors.New("the key does not fit the algorithm")
	}
	opts := (&jose.SignerOptions{}).WithType("JWT")
	if keyID != "" {
		opts = opts.WithHeader("kid", keyID)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(alg), Key: key}, opts)
	if err != nil {
		return "", err
	}
	sig, err := s.Sign(payload)
	if err != nil {
		return "", err
	}
	return sig.CompactSerialize()
}
