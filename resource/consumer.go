package resource

// Consumer is a caller of the gateway, found by a credential in Plugins.
type Consumer struct {
	Meta
	Username string  `json:"username"`
	GroupID  ID      `json:"group_id,omitempty"`
	Plugins  Plugins `json:"plugins,omitempty"`
}

// ConsumerGroup is a set of plugins several consumers share.
type ConsumerGroup struct {
	Meta
	Plugins Plugins `json:"plugins"`
}
