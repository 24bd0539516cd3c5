//! From a byte stream to a session: the startup packet and authentication.
//! <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP>

use std::collections::HashMap;
use std::io;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

use super::{Error, ReplicationConnection, Reply};
use crate::postgres::connect::{Login, first_session, session_fits};
use crate::postgres::dsn::ChannelBinding;
use crate::postgres::settings::SESSION_SETTINGS;
use crate::postgres::{ConnectError, Dsn, Host, ServerError, Stream, Target};
use crate::secret::Secret;

pub(super) async fn connect(
    dsn: &Dsn,
    application_name: &str,
) -> Result<ReplicationConnection, ConnectError> {
    let target = Target::of(dsn)?;
    first_session(&target, &ReplicationLogin { target: &target, application_name }).await
}

struct ReplicationLogin<'a> {
    target: &'a Target,
    application_name: &'a str,
}

impl Login for ReplicationLogin<'_> {
    type Session = ReplicationConnection;

    async fn log_in(
        &self,
        host: &Host,
        stream: Stream,
    ) -> Result<ReplicationConnection, ConnectError> {
        let password = self.target.password(host);
        let dialogue = Dialogue { target: self.target, host, password };
        dialogue.run(stream, self.application_name).await
    }
}

struct Dialogue<'a> {
    target: &'a Target,
    host: &'a Host,
    password: Option<Secret>,
}

impl Dialogue<'_> {
    async fn run(
        &self,
        stream: Stream,
        application_name: &str,
    ) -> Result<ReplicationConnection, ConnectError> {
        let mut connection = ReplicationConnection {
            stream,
            inbox: BytesMut::new(),
            parameters: HashMap::new(),
            process_id: 0,
        };
        let mut parameters = vec![
            ("user", self.target.user()),
            ("database", self.target.database()),
            ("replication", "database"),
            ("application_name", application_name),
        ];
        parameters.extend(SESSION_SETTINGS);
        if let Some(options) = &self.target.options {
            parameters.push(("options", options));
        }
        connection
            .send(|buf| frontend::startup_message(parameters, buf))
            .await
            .map_err(|error| self.failed(error))?;
        self.authenticate(&mut connection).await?;
        loop {
            match self.receive(&mut connection).await? {
                Message::BackendKeyData(body) => connection.process_id = body.process_id(),
                Message::ReadyForQuery(_) => break,
                _ => return Err(self.unexpected("after authentication")),
            }
        }
        match session_fits(self.target.session, |name| connection.parameter(name)) {
            true => Ok(connection),
            false => Err(ConnectError::WrongSession { host: self.host.clone() }),
        }
    }

    async fn authenticate(
        &self,
        connection: &mut ReplicationConnection,
    ) -> Result<(), ConnectError> {
        let method = match self.receive(connection).await? {
            Message::AuthenticationOk => return self.without_channel_binding(),
            Message::AuthenticationCleartextPassword => {
                self.without_channel_binding()?;
                let password = self.password()?.expose().as_bytes();
                self.send(connection, |buf| frontend::password_message(password, buf)).await?;
                return self.accepted(connection).await;
            }
            Message::AuthenticationMd5Password(body) => {
                self.without_channel_binding()?;
                let password = self.password()?.expose().as_bytes();
                let hash = md5_hash(self.target.user().as_bytes(), password, body.salt());
                self.send(connection, |buf| frontend::password_message(hash.as_bytes(), buf))
                    .await?;
                return self.accepted(connection).await;
            }
            Message::AuthenticationSasl(body) => {
                self.scram(connection, &body).await?;
                return self.accepted(connection).await;
            }
            Message::AuthenticationKerberosV5 => "Kerberos V5",
            Message::AuthenticationScmCredential => "SCM credential",
            Message::AuthenticationGss => "GSSAPI",
            Message::AuthenticationSspi => "SSPI",
            _ => return Err(self.unexpected("for authentication")),
        };
        Err(ConnectError::Method { host: self.host.clone(), method })
    }

    /// <https://www.postgresql.org/docs/current/sasl-authentication.html>
    async fn scram(
        &self,
        connection: &mut ReplicationConnection,
        offer: &AuthenticationSaslBody,
    ) -> Result<(), ConnectError> {
        let mut plain = false;
        let mut plus = false;
        let mut mechanisms = offer.mechanisms();
        while let Some(mechanism) = mechanisms.next().map_err(|error| self.malformed(error))? {
            match mechanism {
                sasl::SCRAM_SHA_256 => plain = true,
                sasl::SCRAM_SHA_256_PLUS => plus = true,
                _ => {}
            }
        }
        let binding = match self.target.channel_binding {
            ChannelBinding::Disable => None,
            ChannelBinding::Prefer | ChannelBinding::Require => {
                connection.stream.end_point().map(<[u8]>::to_vec)
            }
        };
        let (mechanism, binding) = match binding {
            Some(data) if plus => {
                (sasl::SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(data))
            }
            // "I could have bound, but you did not offer it": a server that did
            // offer it then knows that someone stands between.
            Some(_) if plain => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested()),
            None if plain => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
            _ => {
                let method = "an unknown SASL";
                return Err(ConnectError::Method { host: self.host.clone(), method });
            }
        };
        if mechanism != sasl::SCRAM_SHA_256_PLUS {
            self.without_channel_binding()?;
        }

        let failed = |source| ConnectError::Scram { host: self.host.clone(), source };
        let mut scram = sasl::ScramSha256::new(self.password()?.expose().as_bytes(), binding);
        self.send(connection, |buf| {
            frontend::sasl_initial_response(mechanism, scram.message(), buf)
        })
        .await?;
        let Message::AuthenticationSaslContinue(body) = self.receive(connection).await? else {
            return Err(self.unexpected("in SCRAM"));
        };
        scram.update(body.data()).map_err(failed)?;
        self.send(connection, |buf| frontend::sasl_response(scram.message(), buf)).await?;
        let Message::AuthenticationSaslFinal(body) = self.receive(connection).await? else {
            return Err(self.unexpected("in SCRAM"));
        };
        scram.finish(body.data()).map_err(failed)
    }

    async fn accepted(&self, connection: &mut ReplicationConnection) -> Result<(), ConnectError> {
        match self.receive(connection).await? {
            Message::AuthenticationOk => Ok(()),
            _ => Err(self.unexpected("for authentication")),
        }
    }

    fn password(&self) -> Result<&Secret, ConnectError> {
        self.password.as_ref().ok_or_else(|| ConnectError::NoPassword {
            host: self.host.clone(),
            user: self.target.user().to_owned(),
        })
    }

    fn without_channel_binding(&self) -> Result<(), ConnectError> {
        match self.target.channel_binding {
            ChannelBinding::Disable | ChannelBinding::Prefer => Ok(()),
            ChannelBinding::Require => {
                Err(ConnectError::NoChannelBinding { host: self.host.clone() })
            }
        }
    }

    async fn send(
        &self,
        connection: &mut ReplicationConnection,
        write: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<(), ConnectError> {
        connection.send(write).await.map_err(|error| self.failed(error))
    }

    /// The next message, unless that is a refusal.
    async fn receive(
        &self,
        connection: &mut ReplicationConnection,
    ) -> Result<Message, ConnectError> {
        match connection.receive().await.map_err(|error| self.failed(error))? {
            Reply::Message(Message::ErrorResponse(body)) => {
                let error = ServerError::parse(&body).map_err(|error| self.malformed(error))?;
                let given = self.password.is_some();
                Err(ConnectError::refused(self.target, self.host, given, error))
            }
            Reply::Message(message) => Ok(message),
            Reply::CopyBoth => Err(self.unexpected("for authentication")),
        }
    }

    fn malformed(&self, source: io::Error) -> ConnectError {
        ConnectError::Malformed { host: self.host.clone(), source }
    }

    fn unexpected(&self, place: &'static str) -> ConnectError {
        ConnectError::Unexpected { host: self.host.clone(), place }
    }

    fn failed(&self, error: Error) -> ConnectError {
        let host = self.host.clone();
        match error {
            Error::Broken(source) => ConnectError::Broken { host, source },
            Error::Closed => ConnectError::Closed { host },
            Error::Malformed(source) => ConnectError::Malformed { host, source },
            Error::Unsendable(source) => ConnectError::Unsendable { host, source },
            // No answer to a login is that long: it is not from Postgres.
            error @ Error::TooLong { .. } => self.malformed(io::Error::other(error)),
            _ => self.unexpected("while logging in"),
        }
    }
}
