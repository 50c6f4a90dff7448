package api

// Verification is what came of verifying the server's own evidence of the day.
type Verification struct {
	Good     bool     `json:"good"`
	Findings []string `json:"findings,omitempty"` // the first MaxStatusNames
	// NotDone says why it was not done; "": it was.
	NotDone string `json:"notDone,omitempty"`
}
