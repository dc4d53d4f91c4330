"""The golden model, in three levels: `equations` (float64), `arith` (bit-exact twins), `iss` (whole programs)."""
