"""binary32 units: fixed latency, one result a cycle. What they compute is specified in docs/numerics.md."""
