//! How rowcast is watched: its logs.
