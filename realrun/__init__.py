"""Real ranks: a DiT-MoE, the transfers between its ranks, and the execution of a schedule on them."""
