package memory_test

import (
	"testing"
	"time"

	"gatehouse/login"
	"gatehouse/oauth"
	"gatehouse/resource"
	"gatehouse/store/memory"
	"gatehouse/store/storetest"
)

func TestResources(t *testing.T) {
	storetest.Resources(t, func(*testing.T) resource.Store { return memory.NewResources() })
}

func TestRecords(t *testing.T) {
	storetest.Records(t, func(*testing.T) oauth.Store { return memory.NewRecords(time.Now) })
}

func TestUsers(t *testing.T) {
	storetest.Users(t, func(*testing.T) login.Store { return memory.NewUsers() })
}
