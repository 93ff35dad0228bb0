// SPDX-License-Identifier: Apache-2.0

// Package fairqueue orders items that wait: by priority lane, then fairly among weighted flows, then
// first in, first out. It starts no goroutine: its user decides when an item leaves.
//
// The order among flows is stride scheduling (Waldspurger and Weihl, 1995). Each flow has a counter,
// the pass. An item that leaves adds its cost, divided by the weight of the flow, to the pass, and the
// flow with the lowest pass is next. A flow that was idle continues at its own pass, or at that of the
// flow that was served last if that is higher: it gains nothing from its idle time.
package fairqueue

import (
	"cmp"
	"container/heap"
	"context"
	"iter"
	"math"
	"slices"
	"time"
)

// Queue holds waiting items of type T in flows with keys of type K. The zero value is an empty queue.
// It remembers the pass of every flow it has seen, so the number of keys must be bounded. A Queue is
// not safe for concurrent use: the lock of its user guards it.
type Queue[K comparable, T any] struct {
	lanes  []lane[K, T]
	length int
}

// Item is a waiting item. It stays valid after it has left its queue.
type Item[K comparable, T any] struct {
	Value T

	flow       *flow[K, T] // nil when the item does not wait
	prev, next *Item[K, T]
}

// Waiting reports whether the item is in a queue.
func (i *Item[K, T]) Waiting() bool { return i.flow != nil }

// lane holds the flows of one priority.
type lane[K comparable, T any] struct {
	flows  map[K]*flow[K, T]
	order  flowHeap[K, T] // those with items, by pass and then by age
	pass   float64        // of the flow that was served last
	length int
}

// flow is a list of items, first in, first out.
type flow[K comparable, T any] struct {
	key         K
	age         int // flows of the lane that are older
	priority    int
	pass        float64
	stride      float64
	index       int // in the heap of its lane
	first, last *Item[K, T]
	length      int
}

// Len returns the number of waiting items.
func (q *Queue[K, T]) Len() int { return q.length }

// LaneLen returns the number of items that wait in the lane of a priority.
func (q *Queue[K, T]) LaneLen(priority int) int {
	if priority >= len(q.lanes) {
		return 0
	}
	return q.lanes[priority].length
}

// Push appends a value to its flow, in the lane of a priority; 0 is the highest. The weight of a flow
// is that of its latest push; a weight below 1 counts as 1. Push takes O(log flows).
func (q *Queue[K, T]) Push(priority int, key K, weight int, value T) *Item[K, T] {
	for len(q.lanes) <= priority {
		q.lanes = append(q.lanes, lane[K, T]{flows: map[K]*flow[K, T]{}})
	}
	l := &q.lanes[priority]
	f, ok := l.flows[key]
	if !ok {
		f = &flow[K, T]{key: key, age: len(l.flows), priority: priority}
		l.flows[key] = f
	}
	f.stride = stride(weight)
	item := &Item[K, T]{Value: value, flow: f, prev: f.last}
	if f.last == nil {
		f.first = item
	} else {
		f.last.next = item
	}
	f.last = item
	f.length++
	l.length++
	q.length++
	if f.length == 1 {
		f.pass = max(f.pass, l.pass)
		heap.Push(&l.order, f)
	}
	return item
}

// SetWeights changes the weights of all flows, also for the items that wait.
func (q *Queue[K, T]) SetWeights(weight func(K) int) {
	for i := range q.lanes {
		for key, f := range q.lanes[i].flows {
			f.stride = stride(weight(key))
		}
	}
}

// stride returns how far an item advances the pass of a flow.
func stride(weight int) float64 { return 1 / float64(max(weight, 1)) }

// Remove takes an item out of the queue. It returns false if the item does not wait any more. It
// takes O(log flows).
func (q *Queue[K, T]) Remove(item *Item[K, T]) bool {
	f := item.flow
	if f == nil {
		return false
	}
	if item.prev == nil {
		f.first = item.next
	} else {
		item.prev.next = item.next
	}
	if item.next == nil {
		f.last = item.prev
	} else {
		item.next.prev = item.prev
	}
	item.flow, item.prev, item.next = nil, nil, nil
	l := &q.lanes[f.priority]
	f.length--
	l.length--
	q.length--
	if f.length == 0 {
		heap.Remove(&l.order, f.index)
	}
	return true
}

// Stop is the cost of an item after which Pop offers no other one.
const Stop = -1

// Pop takes the next item out of the queue for which cost is positive, or returns nil. It offers the
// first item of each flow, lane by lane, and within a lane in the order of their passes. The cost is
// what the item uses of the share of its flow; with a nil cost, each item costs 1. Pop takes O(log
// flows) per offered item.
func (q *Queue[K, T]) Pop(cost func(T) int) *Item[K, T] {
	for i := range q.lanes {
		item, used := q.lanes[i].pop(cost)
		if used == Stop {
			return nil
		}
		if item != nil {
			f, l := item.flow, &q.lanes[i]
			l.pass = f.pass
			f.pass += f.stride * float64(used)
			heap.Fix(&l.order, f.index)
			q.Remove(item)
			return item
		}
	}
	return nil
}

// pop returns the first item with a positive cost, or the cost Stop. It leaves the item in its flow.
func (l *lane[K, T]) pop(cost func(T) int) (item *Item[K, T], used int) {
	if len(l.order) == 0 {
		return nil, 0
	}
	if cost == nil {
		return l.order[0].first, 1
	}
	if used = cost(l.order[0].first.Value); used != 0 {
		return l.order[0].first, used
	}
	for _, f := range slices.SortedFunc(slices.Values(l.order[1:]), compareFlows) {
		if used = cost(f.first.Value); used != 0 {
			return f.first, used
		}
	}
	return nil, 0
}

// Ahead estimates the number of items that leave before one that is pushed now: all in higher lanes,
// all of its own flow, and of each other flow in its lane what the weight of that flow gives it until
// then. It takes O(flows).
func (q *Queue[K, T]) Ahead(priority int, key K, weight int) int {
	count := 0
	for i := range min(priority, len(q.lanes)) {
		count += q.lanes[i].length
	}
	if priority >= len(q.lanes) {
		return count
	}
	l := &q.lanes[priority]
	own := 0
	if f, ok := l.flows[key]; ok {
		own = f.length
	}
	count += own
	for _, f := range l.order {
		if f.key != key {
			count += min(f.length, int(float64(own+1)*stride(weight)/f.stride))
		}
	}
	return count
}

// All yields every waiting item, lane by lane, in no particular order of flows. The loop may remove
// the item that it was given.
func (q *Queue[K, T]) All() iter.Seq[*Item[K, T]] {
	return func(yield func(*Item[K, T]) bool) {
		for i := range q.lanes {
			for _, f := range slices.Clone(q.lanes[i].order) {
				for item := f.first; item != nil; {
					next := item.next
					if !yield(item) {
						return
					}
					item = next
				}
			}
		}
	}
}

// Forever is no limit of a wait.
const Forever = time.Duration(math.MaxInt64)

// Wait waits until ready is closed. It returns false if ctx ends or maxWait passes first: the item may
// then still be served, until its user has removed it.
func Wait(ctx context.Context, ready <-chan struct{}, maxWait time.Duration) bool {
	var expired <-chan time.Time
	if maxWait != Forever {
		timer := time.NewTimer(maxWait)
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case <-ready:
		return true
	case <-ctx.Done():
	case <-expired:
	}
	return false
}

// compareFlows orders flows by pass, and equal ones by age, so that the order is deterministic.
func compareFlows[K comparable, T any](a, b *flow[K, T]) int {
	return cmp.Or(cmp.Compare(a.pass, b.pass), cmp.Compare(a.age, b.age))
}

// flowHeap implements heap.Interface.
type flowHeap[K comparable, T any] []*flow[K, T]

func (h flowHeap[K, T]) Len() int           { return len(h) }
func (h flowHeap[K, T]) Less(i, j int) bool { return compareFlows(h[i], h[j]) < 0 }
func (h flowHeap[K, T]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *flowHeap[K, T]) Push(x any) {
	f := x.(*flow[K, T])
	f.index = len(*h)
	*h = append(*h, f)
}

func (h *flowHeap[K, T]) Pop() any {
	last := len(*h) - 1
	f := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return f
}
