"""molflow: molecule generation with E(n)-equivariant free-form flows."""
