//! Ordinary Postgres: connecting, and what setup makes and checks.
