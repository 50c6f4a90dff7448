package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
)

func connect() *client.Client {
	ca, err := os.ReadFile("/var/lib/culvert/ca.pem")
	if err != nil {
		log.Fatal(err)
	}
	c, err := client.New(client.Config{Address: "https://10.77.0.1:7443", CA: ca, APIKey: os.Getenv("CULVERT_API_KEY")})
	if err != nil {
		log.Fatal(err)
	}
	return c
}

// An endpoint is made, and used once the provider has accepted it and the nodes know.
func ExampleClient_WaitEndpoint() {
	c := connect()
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()

	e, err := c.CreateEndpoint(ctx, api.CreateEndpointRequest{VPC: "shop", Service: "pay/ledger", Name: "ledger"})
	if errors.Is(err, &api.Error{Code: api.CodeServiceName}) {
		log.Fatalf("ask the provider: %v", err) // the error's text says for what
	} else if err != nil {
		log.Fatal(err)
	}
	if e, err = c.WaitEndpoint(ctx, e.ID); err != nil {
		log.Fatal(err)
	}
	if err := c.WaitConverged(ctx, e.Revision); err != nil {
		log.Fatal(err)
	}
	fmt.Println("use", e.DNSNames[0])
}

// A watch goes on across broken connections and restarts of the server; the loop sees nothing of them.
func ExampleClient_WatchEndpoints() {
	c := connect()
	defer c.Close()
	for event, err := range c.WatchEndpoints(context.Background(), client.WithVPC("shop")) {
		if err != nil {
			log.Fatal(err) // such as a key that was revoked: connecting again would not help
		}
		switch event.Type {
		case api.WatchAdded, api.WatchModified:
			fmt.Println(event.Item.Name, event.Item.State)
		case api.WatchDeleted:
			fmt.Println(event.Item.Name, "is gone")
		case api.WatchSynced, api.WatchBookmark:
			fmt.Println("this is the list at revision", event.Revision)
		}
	}
}

// What security groups refused in the last hour.
func ExampleClient_Flows() {
	c := connect()
	defer c.Close()
	q := api.FlowQuery{FlowFilter: api.FlowFilter{Since: time.Now().Add(-time.Hour), Action: "REJECT"}}
	err := c.Flows(context.Background(), q, func(f api.FlowEnvelope) error {
		_, err := fmt.Printf("%s %s\n", f.End.Format(time.RFC3339), f.Record)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
}
