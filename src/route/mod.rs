//! Rules: a change in, notifications out. Pure.
