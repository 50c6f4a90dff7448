package controlplane

import (
	"slices"

	"github.com/culvert-net/culvert/api"
)

// owns reports whether a name lies in a domain that an account was given or has proved.
func owns(r *api.Resources, account, name string) bool {
	if a := r.Accounts[account]; a != nil && slices.ContainsFunc(a.Domains, func(d string) bool { return api.WithinDomain(name, d) }) {
		return true
	}
	for _, d := range r.Domains {
		if d.Account == account && d.State == api.DomainVerified && api.WithinDomain(name, d.Name) {
			return true
		}
	}
	return false
}
