// Package tidy holds the project's style as tests: who may import whom and why, sizes of files and functions, package
// documentation, calls that are banned, generated files that must be fresh. A rule without a reason is not a rule: every
// ban carries the sentence that a failing test prints.
package tidy
