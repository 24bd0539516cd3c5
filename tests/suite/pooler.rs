//! Behind PgBouncer: what works in which mode, and that nothing of ours stays in sessions that others get.

mod sessions;
