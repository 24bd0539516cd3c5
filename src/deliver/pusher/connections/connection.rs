use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Waker};
use std::time::Instant;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::super::client::Response;

/// Nothing happens on it unless it is polled, and nothing has to while it is idle.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// `None` once it has ended: only by being dropped does it tell a request in its
    /// queue that nobody will send it.
    driver: Option<Driver>,
    pub(super) idle_since: Instant,
}

type Driver = http1::Connection<TokioIo<Box<dyn Stream>>, Full<Bytes>>;

pub(super) trait Stream: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin> Stream for S {}

impl Connection {
    pub(super) async fn over(stream: Box<dyn Stream>) -> hyper::Result<Connection> {
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        Ok(Connection { sender, driver: Some(driver), idle_since: Instant::now() })
    }

    /// Whether it can take a request: the server has not closed it, nor said
    /// anything unasked.
    pub(super) fn is_open(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.driver.is_some()
    }

    /// Sends the request, and waits for the head of the answer.
    pub(super) async fn ask(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<hyper::Response<Incoming>> {
        let answering = self.sender.send_request(request);
        self.driving(answering).await
    }

    pub(super) async fn read(
        &mut self,
        answer: hyper::Response<Incoming>,
        max_bytes: usize,
    ) -> hyper::Result<Response> {
        self.driving(Response::read(answer, max_bytes)).await
    }

    async fn driving<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|context| {
            self.drive(context);
            future.as_mut().poll(context)
        })
        .await
    }

    /// How it ended is in the answer.
    fn drive(&mut self, context: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && Pin::new(driver).poll(context).is_ready()
        {
            self.driver = None;
        }
    }
}
