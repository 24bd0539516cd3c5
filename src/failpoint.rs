//! Places where a test may end the process, as a crash would: exactly there.

/// Ends the process if `ROWCAST_FAILPOINT` names this place. Release builds have
/// no such places.
pub fn reached(place: &str) {
    if cfg!(debug_assertions)
        && std::env::var_os("ROWCAST_FAILPOINT").is_some_and(|name| name == *place)
    {
        std::process::abort();
    }
}
