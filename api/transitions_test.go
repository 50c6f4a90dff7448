package api

import (
	"errors"
	"testing"
)

func TestEveryConnectionPairIsDecided(t *testing.T) {
	for _, s := range ConnectionStates {
		for _, e := range ConnectionEvents {
			if _, ok := connectionTable[s][e]; !ok {
				t.Errorf("(%s, %s) is not decided", s, e)
			}
			next, err := s.Next(e)
			if err != nil && (next != s || !errors.Is(err, &Error{Code: CodeIncorrectState}) || err.(*Error).Remedy == "") {
				t.Errorf("(%s, %s): state %s, error %v", s, e, next, err)
			}
			if err == nil && connectionTable[next] == nil {
				t.Errorf("(%s, %s) leads to the unknown state %s", s, e, next)
			}
		}
	}
	if len(connectionTable) != len(ConnectionStates) {
		t.Errorf("table has %d states, list %d", len(connectionTable), len(ConnectionStates))
	}
}

func TestEveryServiceAndNodePairIsDecided(t *testing.T) {
	for _, s := range ServiceStates {
		for _, e := range ServiceEvents {
			if _, ok := serviceTable[s][e]; !ok {
				t.Errorf("(%s, %s) is not decided", s, e)
			}
		}
	}
	for _, s := range NodeStates {
		for _, e := range NodeEvents {
			if _, ok := nodeTable[s][e]; !ok {
				t.Errorf("(%s, %s) is not decided", s, e)
			}
		}
	}
}

// Only the provider's word, or a service that asks for none, leads to Available; and only Available connects.
func TestRoadsToAvailable(t *testing.T) {
	for _, s := range ConnectionStates {
		for _, e := range ConnectionEvents {
			next, err := s.Next(e)
			if err == nil && next == Available && (s != Pending || e != EventReady) {
				t.Errorf("(%s, %s) leads to Available", s, e)
			}
			if err == nil && next == Pending && s == PendingAcceptance && e != EventAccept {
				t.Errorf("(%s, %s) goes round acceptance", s, e)
			}
		}
	}
	if InitialConnectionState(true) != PendingAcceptance || InitialConnectionState(false) != Pending {
		t.Error("wrong initial state")
	}
}

func TestEveryConnectionStateCanEnd(t *testing.T) {
	for _, s := range ConnectionStates {
		if s == Deleting || s == Deleted {
			continue
		}
		next, err := s.Next(EventDelete)
		if err != nil || next != Deleting {
			t.Errorf("%s cannot be deleted: %v", s, err)
		}
	}
	if s, err := Deleting.Next(EventRemoved); err != nil || s != Deleted {
		t.Errorf("Deleting does not end: %s, %v", s, err)
	}
}
