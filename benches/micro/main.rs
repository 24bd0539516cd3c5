//! What one change costs, stage by stage, without a server and without a queue.
//!
//! `cargo bench --bench micro`, or with `-- decode` behind it for one stage.

mod decode;
mod fold;
mod route;
mod rows;
mod sign;
mod stream;

fn main() {
    divan::main();
}
