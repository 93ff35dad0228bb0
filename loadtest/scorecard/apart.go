// SPDX-License-Identifier: Apache-2.0

package main

func (r row) playApart(h house) card { return r.play(h) }
