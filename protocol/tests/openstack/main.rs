//! The decoder of Nova's notifications against Nova's own samples, real runs, and everything that is wrong.

mod bounds;
mod cases;
mod lines;
mod mutations;
mod samples;
mod sources;
