"""Which architectures may be considered, what each costs, and how candidates are drawn at the budget."""
