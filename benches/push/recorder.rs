//! An endpoint that keeps each request as it came, to be sent again.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// More than a client opens.
const SERVED: usize = 32;
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";

pub(crate) struct Recorder {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Recorder {
    /// Its threads end with this process.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let requests = Arc::new(Mutex::new(Vec::new()));
        for _ in 0..SERVED {
            let listener = listener.try_clone().expect("a socket can be shared");
            let requests = requests.clone();
            thread::spawn(move || {
                loop {
                    let (stream, _) = listener.accept().expect("the loopback accepts");
                    // A client that closes without a request has sent nothing.
                    let Ok(request) = answer(stream) else { continue };
                    requests.lock().expect("nobody panics with it").push(request);
                }
            });
        }
        Self { address, requests }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<Vec<u8>> {
        self.requests.lock().expect("nobody panics with it").clone()
    }
}

fn answer(mut stream: TcpStream) -> io::Result<Vec<u8>> {
    let mut request = Vec::new();
    let mut buffer = [0; 16 * 1024];
    while !is_whole(&request) {
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => request.extend_from_slice(&buffer[..count]),
        }
    }
    stream.write_all(ANSWER)?;
    Ok(request)
}

fn is_whole(request: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(request) else { return false };
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let mut headers = head.lines().filter_map(|line| line.split_once(": "));
    let length = headers.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    length.is_some_and(|(_, length)| length.parse() == Ok(body.len()))
}
