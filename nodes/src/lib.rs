//! What runs: the one binary reeve.
