"""Makes what documents the definitions: command set and register map, for people and for C programs."""
