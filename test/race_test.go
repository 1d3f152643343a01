//go:build race

package test

// raceEnabled builds the program under test with the race detector too.
const raceEnabled = true
