// Package packages tests what packaging/ builds: what is in the packages, and a host's life with them, from installation
// to purge, on machines with a systemd of their own. It has tests only.
package packages
