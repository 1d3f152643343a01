// A relying party by openid-client: prints where the browser goes, reads where
// it came back to, and prints what it learnt.
import * as client from 'openid-client'
import { createInterface } from 'node:readline'

const [issuer, id, secret, redirect_uri] = process.argv.slice(2)
const config = await client.discovery(new URL(issuer), id, undefined, client.ClientSecretBasic(secret), {
  execute: [client.allowInsecureRequests],
})
const pkceCodeVerifier = client.randomPKCECodeVerifier()
const expectedState = client.randomState()
const expectedNonce = client.randomNonce()
console.log(client.buildAuthorizationUrl(config, {
  redirect_uri,
  scope: 'openid offline email',
  code_challenge: await client.calculatePKCECodeChallenge(pkceCodeVerifier),
  code_challenge_method: 'S256',
  state: expectedState,
  nonce: expectedNonce,
}).href)
const lines = createInterface({ input: process.stdin })
const { value } = await lines[Symbol.asyncIterator]().next()
const tokens = await client.authorizationCodeGrant(config, new URL(value), { pkceCodeVerifier, expectedState, expectedNonce, idTokenExpected: true })
const claims = tokens.claims()
const info = await client.fetchUserInfo(config, tokens.access_token, claims.sub)
const again = await client.refreshTokenGrant(config, tokens.refresh_token)
const seen = await client.fetchUserInfo(config, again.access_token, claims.sub)
console.log(JSON.stringify({ email: info.email, refreshed: seen.sub === claims.sub }))
lines.close()
