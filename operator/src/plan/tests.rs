//! The planner: each state with the step it asks for, and whole histories in a small world.

mod room;
mod table;
mod world;
