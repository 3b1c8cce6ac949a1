"""Angular-margin distillation and angular-margin contrastive learning in JAX."""
