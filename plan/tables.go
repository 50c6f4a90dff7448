package plan

import ()

type zonedTarget struct {
	TableTarget
	zone    string
	reserve uint16 // its weight where too few of the others are well
}
