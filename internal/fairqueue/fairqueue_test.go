// SPDX-License-Identifier: Apache-2.0

package fairqueue_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/internal/fairqueue"
)

type queue = fairqueue.Queue[string, int]

func TestHigherLaneIsFirst(t *testing.T) {
	var q queue
	q.Push(2, "a", 1, 20)
	q.Push(0, "a", 1, 0)
	q.Push(1, "a", 1, 10)
	q.Push(0, "a", 1, 1)
	if got := drain(&q); !slices.Equal(got, []int{0, 1, 10, 20}) {
		t.Errorf("the order is %v", got)
	}
}

func TestFlowsShareByWeight(t *testing.T) {
	var q queue
	for i := range 400 {
		q.Push(1, "light", 1, 0)
		q.Push(1, "heavy", 3, 1)
		_ = i
	}
	heavy := 0
	for range 400 {
		heavy += q.Pop(nil).Value
	}
	if heavy < 299 || heavy > 301 {
		t.Errorf("the flow with weight 3 got %d of 400, want 300", heavy)
	}
}

func TestFlowWithOneItemAtATimeDoesNotStarveOthers(t *testing.T) {
	var q queue
	for range 100 {
		q.Push(0, "backlog", 1, 0)
	}
	single := 0
	for range 100 {
		if !containsFlow(&q) {
			q.Push(0, "single", 1, 1)
		}
		single += q.Pop(nil).Value
	}
	if single < 49 || single > 51 {
		t.Errorf("the flow that pushes one item at a time got %d of 100, want 50", single)
	}
}

func containsFlow(q *queue) bool {
	for item := range q.All() {
		if item.Value == 1 {
			return true
		}
	}
	return false
}

func TestIdleFlowGainsNothingFromItsIdleTime(t *testing.T) {
	var q queue
	for range 100 {
		q.Push(0, "busy", 1, 0)
		q.Pop(nil)
	}
	for range 10 {
		q.Push(0, "busy", 1, 0)
		q.Push(0, "new", 1, 1)
	}
	first := 0
	for range 10 {
		first += q.Pop(nil).Value
	}
	if first < 4 || first > 6 {
		t.Errorf("the new flow got %d of the first 10, want 5", first)
	}
}

func TestPopOffersEveryFlowOnce(t *testing.T) {
	var q queue
	q.Push(0, "a", 1, 1)
	q.Push(0, "b", 1, 2)
	q.Push(1, "c", 1, 3)
	var offered []int
	if q.Pop(func(v int) int { offered = append(offered, v); return 0 }) != nil || q.Len() != 3 {
		t.Error("an item left although it was not accepted")
	}
	if !slices.Equal(offered, []int{1, 2, 3}) {
		t.Errorf("offered %v", offered)
	}
	if got := q.Pop(costOf(func(v int) bool { return v == 3 })); got == nil || got.Value != 3 || got.Waiting() {
		t.Errorf("popped %+v", got)
	}
}

func TestStopEndsPop(t *testing.T) {
	var q queue
	q.Push(0, "a", 1, 1)
	q.Push(0, "b", 1, 2)
	q.Push(1, "c", 1, 3)
	var offered []int
	item := q.Pop(func(v int) int {
		offered = append(offered, v)
		return []int{0, fairqueue.Stop}[len(offered)-1]
	})
	if item != nil || q.Len() != 3 || !slices.Equal(offered, []int{1, 2}) {
		t.Errorf("popped %v, offered %v, %d left", item, offered, q.Len())
	}
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ready := make(chan struct{})
		time.AfterFunc(2*time.Second, func() { close(ready) })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if fairqueue.Wait(t.Context(), ready, 0) || time.Since(start) != 0 {
			t.Error("Wait exceeds maxWait")
		}
		if fairqueue.Wait(ctx, ready, time.Hour) || time.Since(start) != time.Second {
			t.Error("Wait does not end with its context")
		}
		if !fairqueue.Wait(t.Context(), ready, time.Hour) || time.Since(start) != 2*time.Second {
			t.Error("Wait does not end when it is ready")
		}
	})
}

// costOf returns a cost of 1 for the items that accept takes.
func costOf(accept func(int) bool) func(int) int {
	return func(v int) int {
		if accept(v) {
			return 1
		}
		return 0
	}
}

// TestItemsUseShareByTheirCost pops items of two flows, one of which has items that cost 8.
func TestItemsUseShareByTheirCost(t *testing.T) {
	var q queue
	for range 100 {
		q.Push(0, "runs", 1, 8)
		q.Push(0, "singles", 1, 1)
	}
	used := map[int]int{}
	for range 90 {
		used[q.Pop(func(v int) int { return v }).Value]++
	}
	if used[8] != 10 || used[1] != 80 {
		t.Errorf("%d items that cost 8 and %d that cost 1, want 10 and 80", used[8], used[1])
	}
}

func drain(q *queue) (values []int) {
	for item := q.Pop(nil); item != nil; item = q.Pop(nil) {
		values = append(values, item.Value)
	}
	return values
}

// TestQueueMatchesModel compares a queue with lists that are searched from the start.
func TestQueueMatchesModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q queue
		type entry struct {
			lane int
			flow string
			item *fairqueue.Item[string, int]
		}
		var waiting, left []entry
		next := 0
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				e := entry{lane: rapid.IntRange(0, 2).Draw(t, "lane"), flow: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "flow")}
				e.item = q.Push(e.lane, e.flow, rapid.IntRange(-1, 4).Draw(t, "weight"), next)
				next++
				waiting = append(waiting, e)
			},
			"remove": func(t *rapid.T) {
				if len(waiting) == 0 {
					t.Skip("empty")
				}
				i := rapid.IntRange(0, len(waiting)-1).Draw(t, "index")
				if !q.Remove(waiting[i].item) {
					t.Fatal("a waiting item could not be removed")
				}
				left, waiting = append(left, waiting[i]), slices.Delete(waiting, i, i+1)
			},
			"pop": func(t *rapid.T) {
				accepted := rapid.IntRange(1, 3).Draw(t, "accepted multiples")
				accept := func(v int) bool { return v%accepted == 0 }
				got := q.Pop(costOf(accept))
				// the first items of the flows that accept would take, in the highest lane that has one
				var candidates []entry
				for lane := 0; lane < 3 && candidates == nil; lane++ {
					seen := map[string]bool{}
					for _, e := range waiting {
						if e.lane == lane && !seen[e.flow] {
							seen[e.flow] = true
							if accept(e.item.Value) {
								candidates = append(candidates, e)
							}
						}
					}
				}
				if got == nil {
					if candidates != nil {
						t.Fatalf("nothing was popped, although %v could be", candidates)
					}
					return
				}
				if !slices.ContainsFunc(candidates, func(e entry) bool { return e.item == got }) {
					t.Fatalf("popped %d, which is not the first of a flow in the highest lane", got.Value)
				}
				i := slices.IndexFunc(waiting, func(e entry) bool { return e.item == got })
				left, waiting = append(left, waiting[i]), slices.Delete(waiting, i, i+1)
			},
			"": func(t *rapid.T) {
				lanes := [3]int{}
				for _, e := range waiting {
					lanes[e.lane]++
				}
				for lane, want := range lanes {
					if got := q.LaneLen(lane); got != want {
						t.Fatalf("lane %d has %d items, want %d", lane, got, want)
					}
				}
				if q.Len() != len(waiting) {
					t.Fatalf("the queue has %d items, want %d", q.Len(), len(waiting))
				}
				all := map[*fairqueue.Item[string, int]]bool{}
				for item := range q.All() {
					all[item] = true
				}
				for _, e := range waiting {
					if !e.item.Waiting() || !all[e.item] {
						t.Fatalf("item %d is missing", e.item.Value)
					}
				}
				for _, e := range left {
					if e.item.Waiting() || q.Remove(e.item) {
						t.Fatalf("item %d has left and still waits", e.item.Value)
					}
				}
			},
		})
	})
}

// TestSharesConverge checks that backlogged flows get items in proportion to their weights.
func TestSharesConverge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		weights := rapid.SliceOfN(rapid.IntRange(1, 9), 2, 6).Draw(t, "weights")
		total := 0
		var q queue
		for i, w := range weights {
			total += w
			for range 200 * w {
				q.Push(0, fmt.Sprint(i), w, i)
			}
		}
		got := make([]int, len(weights))
		for range 100 * total {
			got[q.Pop(nil).Value]++
		}
		for i, w := range weights {
			if got[i] < 100*w-w-1 || got[i] > 100*w+w+1 {
				t.Fatalf("flow %d with weight %d got %d, want %d", i, w, got[i], 100*w)
			}
		}
	})
}

// BenchmarkPushPop pushes and pops one item, with 100,000 items waiting in 1,000 flows.
func BenchmarkPushPop(b *testing.B) {
	q, keys := backlog()
	for i := 0; b.Loop(); i++ {
		q.Push(i%3, keys[i%len(keys)], 1, i)
		q.Pop(nil)
	}
}

// BenchmarkPushRemove pushes and removes one item, with 100,000 items waiting in 1,000 flows.
func BenchmarkPushRemove(b *testing.B) {
	q, keys := backlog()
	for i := 0; b.Loop(); i++ {
		q.Remove(q.Push(i%3, keys[i%len(keys)], 1, i))
	}
}

func backlog() (q *queue, keys []string) {
	q = &queue{}
	for i := range 1000 {
		keys = append(keys, fmt.Sprintf("app-%d", i))
	}
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 100_000 {
		q.Push(random.IntN(3), keys[random.IntN(len(keys))], 1+i%4, i)
	}
	return q, keys
}
