//! Notifications out: lanes, retries, and the endpoint.
