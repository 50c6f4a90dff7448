package e2e

import ()

func gone[T any](_ *T, err error) error { return err }
