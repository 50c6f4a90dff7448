package api

// Resources is a consistent picture of everything, keyed by id. Whoever holds one may read it, nobody may change it.
type Resources struct {
	Revision       int64
	Mesh           Mesh
	Accounts       map[string]*Account
	VPCs           map[string]*VPC
	Subnets        map[string]*Subnet
	ENIs           map[string]*ENI
	SecurityGroups map[string]*SecurityGroup
	TargetGroups   map[string]*TargetGroup
	LoadBalancers  map[string]*LoadBalancer
	Services       map[string]*Service
	Endpoints      map[string]*Endpoint
	Connections    map[string]*Connection
	Nodes          map[string]*Node
	JoinTokens     map[string]*JoinToken
	APIKeys        map[string]*APIKey
}

// NewResources returns an empty picture with every map made.
func NewResources() *Resources {
	return &Resources{
		Accounts: map[string]*Account{}, VPCs: map[string]*VPC{}, Subnets: map[string]*Subnet{},
		ENIs: map[string]*ENI{}, SecurityGroups: map[string]*SecurityGroup{},
		TargetGroups: map[string]*TargetGroup{}, LoadBalancers: map[string]*LoadBalancer{},
		Services: map[string]*Service{}, Endpoints: map[string]*Endpoint{},
		Connections: map[string]*Connection{}, Nodes: map[string]*Node{},
		JoinTokens: map[string]*JoinToken{}, APIKeys: map[string]*APIKey{},
	}
}

// Put adds or replaces a resource.
func (r *Resources) Put(res Resource) {
	id := res.GetMeta().ID
	switch v := res.(type) {
	case *Account:
		r.Accounts[id] = v
	case *VPC:
		r.VPCs[id] = v
	case *Subnet:
		r.Subnets[id] = v
	case *ENI:
		r.ENIs[id] = v
	case *SecurityGroup:
		r.SecurityGroups[id] = v
	case *TargetGroup:
		r.TargetGroups[id] = v
	case *LoadBalancer:
		r.LoadBalancers[id] = v
	case *Service:
		r.Services[id] = v
	case *Endpoint:
		r.Endpoints[id] = v
	case *Connection:
		r.Connections[id] = v
	case *Node:
		r.Nodes[id] = v
	case *JoinToken:
		r.JoinTokens[id] = v
	case *APIKey:
		r.APIKeys[id] = v
	}
}
