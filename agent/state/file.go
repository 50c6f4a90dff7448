package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/culvert-net/culvert/internal/ownfile"
)

// format is the version of the files. One of a higher number was written by a newer culvert.
const format = 1

// maxFile bounds a file, in bytes: a view as large as a node takes, in base64.
const maxFile = 64 << 20

// copySuffix is what the second copy of a file is named by.
const copySuffix = ".copy"

// remedies say what to do when a file cannot be used.
var remedies = map[string]string{
	identityFile:    "restore the data directory from a backup, or make this machine a node again: culvert agent leave --local, culvert agent join",
	attachmentsFile: "restore it from a backup, or remove it with its copy and attach the interfaces again: culvert eni attach",
	joiningFile:     "it is written anew",
	viewFile:        "it comes again from the server; until then nothing is changed",
	keyUseFile:      "it is written anew",
	logKeyFile:      "remove it: a new key is drawn and told to the server, and the old one stays good for what it has signed",
}

// mirrored are files that only this machine knows the content of.
var mirrored = []string{identityFile, attachmentsFile}

// envelope is what a file holds.
type envelope struct {
	Format  int             `json:"format"`
	SHA256  string          `json:"sha256"` // of the content as compact JSON, hexadecimal
	Content json.RawMessage `json:"content"`
}

func wrap(v any) ([]byte, error) {
	content, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	data, err := json.MarshalIndent(envelope{format, sum(content), content}, "", "  ")
	return append(data, '\n'), err
}

func sum(content []byte) string {
	s := sha256.Sum256(content)
	return hex.EncodeToString(s[:])
}

// unwrap fills v from what wrap made.
func unwrap(data []byte, v any) error {
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil {
		return fmt.Errorf("it is damaged (%w)", err)
	}
	if e.Format > format {
		return fmt.Errorf("it has format %d, of a newer version than this one, which knows %d: run that one", e.Format, format)
	}
	if e.Format < format {
		return errors.New("it has no format number: an earlier version wrote it, whose files this one does not read, or it was changed by hand")
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, e.Content); err != nil {
		return fmt.Errorf("it is damaged (%w)", err)
	}
	if e.SHA256 != sum(compact.Bytes()) {
		return errors.New("it is damaged or was changed by hand (the checksum does not fit)")
	}
	if err := json.Unmarshal(e.Content, v); err != nil {
		return fmt.Errorf("it holds something else (%w)", err)
	}
	return nil
}

// readJSON fills v from a file; found is false when there is none.
func (d Dir) readJSON(name string, v any) (found bool, err error) {
	data, err := ownfile.Read(d.Path(name), maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = unwrap(data, v)
	}
	if err != nil {
		return false, d.unusable(name, err)
	}
	return true, nil
}

// unusable says what to do about a file.
func (d Dir) unusable(name string, err error) error {
	return fmt.Errorf("%s cannot be used: %w: %s", d.Path(name), err, remedies[name])
}

func (d Dir) writeJSON(name string, v any) error {
	data, err := wrap(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	for _, m := range mirrored {
		if m == name { // first, as the file itself says what is known: after a crash it is the older of the two at worst
			if err := d.Write(name+copySuffix, data); err != nil {
				return err
			}
		}
	}
	return d.Write(name, data)
}

// Mend puts a good copy in the place of a file that is missing or damaged, and says so. What has no good copy stays as it is:
// reading it says what is wrong.
func (d Dir) Mend() (mended []string, err error) {
	for _, name := range mirrored {
		var content json.RawMessage
		if found, err := d.readJSON(name, &content); found && err == nil {
			continue
		} else if copied, errCopy := d.readCopy(name); copied != nil && errCopy == nil {
			what := "is missing"
			if err != nil {
				what = err.Error()
			}
			if err := d.Write(name, copied); err != nil {
				return mended, err
			}
			mended = append(mended, fmt.Sprintf("%s was restored from its copy: %s", d.Path(name), what))
		}
	}
	return mended, nil
}

// readCopy returns the second copy if it is good.
func (d Dir) readCopy(name string) ([]byte, error) {
	data, err := ownfile.Read(d.Path(name+copySuffix), maxFile)
	if err != nil {
		return nil, err
	}
	var content json.RawMessage
	return data, unwrap(data, &content)
}
