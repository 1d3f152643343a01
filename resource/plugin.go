package resource

import "encoding/json"

// Plugins holds the configuration of plugins by name.
type Plugins map[string]json.RawMessage

// PluginMeta is the "_meta" part of a plugin's configuration.
type PluginMeta struct {
	Disable       bool            `json:"disable,omitempty"`
	Priority      *int            `json:"priority,omitempty"`
	Filter        json.RawMessage `json:"filter,omitempty"`
	ErrorResponse json.RawMessage `json:"error_response,omitempty"`
	PreFunction   string          `json:"pre_function,omitempty"` // Lua, refused
}

// PluginConfig is a set of plugins routes refer to.
type PluginConfig struct {
	Meta
	Plugins Plugins `json:"plugins"`
}

// GlobalRule is a set of plugins for every request.
type GlobalRule struct {
	Meta
	Plugins Plugins `json:"plugins"`
}
