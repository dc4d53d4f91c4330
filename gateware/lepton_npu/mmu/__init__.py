"""Address translation: TLB, page walker, and the unit that joins them (docs/mmu.md)."""
