// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
)

// FormatCount rounds n and writes it with thousands separators: 12,345.
func FormatCount(n float64) string {
	digits := strconv.FormatInt(int64(math.Round(math.Abs(n))), 10)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	if n <= -0.5 {
		return "-" + digits
	}
	return digits
}

// FormatMillis writes milliseconds with a unit and precision that suit the magnitude.
func FormatMillis(ms float64) string {
	switch {
	case ms == 0:
		return "0"
	case ms < 1:
		return fmt.Sprintf("%.0f µs", ms*1000)
	case ms < 10:
		return fmt.Sprintf("%.2f ms", ms)
	case ms < 100:
		return fmt.Sprintf("%.1f ms", ms)
	case ms < 10_000:
		return FormatCount(ms) + " ms"
	default:
		return fmt.Sprintf("%.1f s", ms/1000)
	}
}

// FormatPercent writes part/whole in percent. It rounds down, so only the whole is 100 %.
func FormatPercent(part, whole int) string {
	switch {
	case whole == 0:
		return "–"
	case part == whole:
		return "100 %"
	}
	percent := 100 * float64(part) / float64(whole)
	return fmt.Sprintf("%.2f %%", math.Floor(percent*100)/100)
}

// keysByCount returns the keys of m by descending count, then by name.
func keysByCount(m map[string]int) []string {
	return slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		if m[a] != m[b] {
			return m[b] - m[a]
		}
		if a < b {
			return -1
		}
		return 1
	})
}
