// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/sluice-push/sluice/pool"
)

// newBenchPool runs a pool of n endpoints for a benchmark.
func newBenchPool(b *testing.B, picker pool.Picker, n int) *pool.Pool {
	b.Helper()
	var joined sync.WaitGroup
	joined.Add(n)
	p, err := pool.New(pool.Config{
		Resolver: pool.Static(addrs(1, n)), Picker: picker, Size: n,
		Observe: func(e pool.Event) {
			if e.Kind == pool.EventJoined {
				joined.Done()
			}
		},
		Dial: func(context.Context, netip.AddrPort) (pool.Conn, error) {
			return &exampleConn{closed: make(chan struct{})}, nil
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error)
	go func() { ended <- p.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	})
	joined.Wait() // go test -timeout bounds it
	b.ReportAllocs()
	b.ResetTimer()
	return p
}

func BenchmarkPickAndDone(b *testing.B) {
	pickers := map[string]pool.Picker{"RoundRobin": pool.RoundRobin{}, "LeastLoaded": pool.LeastLoaded{}, "BoundedRoundRobin": pool.BoundedRoundRobin{}}
	for name, picker := range pickers {
		for _, endpoints := range []int{8, 64} {
			b.Run(fmt.Sprintf("%s/%d", name, endpoints), func(b *testing.B) {
				p := newBenchPool(b, picker, endpoints)
				for b.Loop() {
					lease, err := p.Pick(b.Context(), nil)
					if err != nil {
						b.Fatal(err)
					}
					lease.Done(accepted)
				}
			})
			b.Run(fmt.Sprintf("%s/%d/parallel", name, endpoints), func(b *testing.B) {
				p := newBenchPool(b, picker, endpoints)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						lease, err := p.Pick(b.Context(), nil)
						if err != nil {
							b.Error(err)
							return
						}
						lease.Done(accepted)
					}
				})
			})
		}
	}
}

// BenchmarkPickAfterTwoAttempts measures Pick for a retry. Its outcome does not reach the breaker.
func BenchmarkPickAfterTwoAttempts(b *testing.B) {
	p := newBenchPool(b, nil, 8)
	var tried pool.Tried
	for range 2 {
		lease, err := p.Pick(b.Context(), tried)
		if err != nil {
			b.Fatal(err)
		}
		tried = append(tried, lease.Endpoint())
		lease.Done(accepted)
	}
	for b.Loop() {
		lease, err := p.Pick(b.Context(), tried)
		if err != nil {
			b.Fatal(err)
		}
		lease.Done(abandoned)
	}
}

// BenchmarkWaiters has 100,000 callers that wait. It measures giving back a place, which wakes the
// first of them, and Pick with a context that ends while it waits behind them.
func BenchmarkWaiters(b *testing.B) {
	p := newBenchPool(b, nil, 8)
	ctx, cancel := context.WithCancel(b.Context())
	served := make(chan *pool.Lease, 8*64)
	var callers sync.WaitGroup
	for range 100_000 + cap(served) {
		callers.Go(func() {
			for {
				lease, err := p.Pick(ctx, nil)
				if err != nil {
					return
				}
				served <- lease
			}
		})
	}
	for p.Status().Waiting < 100_000 {
		runtime.Gosched()
	}
	b.Cleanup(func() {
		cancel()
		go func() { callers.Wait(); close(served) }()
		for lease := range served {
			lease.Done(accepted)
		}
	})
	b.Run("Served", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			(<-served).Done(accepted)
		}
	})
	b.Run("Canceled", func(b *testing.B) {
		canceled, cancel := context.WithCancel(b.Context())
		cancel()
		b.ReportAllocs()
		for b.Loop() {
			if _, err := p.Pick(canceled, nil); err == nil {
				b.Fatal("a lease was free")
			}
		}
	})
}

// BenchmarkPickNAndSucceeded measures the lease of a run of 64, per run.
func BenchmarkPickNAndSucceeded(b *testing.B) {
	p := newBenchPool(b, nil, 8)
	for b.Loop() {
		lease, err := p.PickN(b.Context(), pool.Request{N: 64})
		if err != nil {
			b.Fatal(err)
		}
		lease.Succeeded(lease.Size(), time.Millisecond)
	}
}
