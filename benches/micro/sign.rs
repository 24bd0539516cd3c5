//! A request's signature, by the length of its body.

use std::hint::black_box;

use divan::{Bencher, counter::BytesCount};
use rowcast::{
    deliver::pusher::signature::{Method, Signed, signed_query},
    secret::Secret,
};

/// One event; ten of them; as much as Reverb takes.
#[divan::bench(args = [200, 2_000, 9_000])]
fn sign(bencher: Bencher, bytes: usize) {
    let body = vec![b'x'; bytes];
    let secret = Secret::new("7ad3773142a6692b25b8");
    bencher.counter(BytesCount::new(bytes)).bench_local(|| {
        let signed = Signed {
            method: Method::Post,
            path: "/apps/3/batch_events",
            parameters: &[],
            body: black_box(&body),
            unix_seconds: 1_353_088_179,
        };
        signed_query("278d425bdf160c739803", &secret, signed)
    });
}
