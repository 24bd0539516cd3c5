//! As cheap as it gets: threads, blocking sockets, and requests that were made and signed before.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

/// Sends each request once, on so many connections side by side, and waits for all answers.
pub(crate) fn send(port: u16, requests: &[Vec<u8>], connections: usize) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(|| {
                let mut answer = [0; 4096];
                while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    exchange(port, request, &mut answer);
                }
            });
        }
    });
}

/// Sockudo closes each connection after its answer.
fn exchange(port: u16, request: &[u8], answer: &mut [u8]) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("Sockudo listens");
    stream.set_nodelay(true).expect("it is an option of every connection");
    stream.write_all(request).expect("Sockudo reads");
    let mut len = 0;
    loop {
        match stream.read(&mut answer[len..]).expect("Sockudo answers") {
            0 => break,
            count => len += count,
        }
    }
    let accepted = b"HTTP/1.1 200 ";
    assert!(answer.starts_with(accepted), "{}", String::from_utf8_lossy(&answer[..len]));
}
