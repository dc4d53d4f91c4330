"""The golden model, in three levels: `equations` (float64), `arith` (bit-exact twins of the units), `iss` (whole programs)."""
