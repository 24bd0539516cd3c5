use proptest::prelude::*;

use super::*;

#[test]
fn sessions_can_be_opened_in_tasks() {
    fn assert_send(_: impl Send) {}
    assert_send(ReplicationConnection::connect(&Dsn::default(), "rowcast"));
}

#[test]
fn a_slot_is_made_in_the_syntax_of_the_server() {
    let slot = "rowcast".parse().unwrap();
    let command = |version| create_slot_command(&slot, Persistence::Permanent, version);
    let old = r#"CREATE_REPLICATION_SLOT "rowcast" LOGICAL pgoutput NOEXPORT_SNAPSHOT"#;
    let new = r#"CREATE_REPLICATION_SLOT "rowcast" LOGICAL pgoutput (SNAPSHOT 'nothing')"#;
    assert_eq!(command(Some(14)), old);
    assert_eq!(command(Some(15)), new);
    assert_eq!(command(Some(18)), new);
    assert_eq!(command(None), new);
    assert_eq!(
        create_slot_command(&slot, Persistence::Failover, Some(17)),
        r#"CREATE_REPLICATION_SLOT "rowcast" LOGICAL pgoutput (SNAPSHOT 'nothing', FAILOVER true)"#
    );
    assert_eq!(
        create_slot_command(&slot, Persistence::Temporary, Some(17)),
        r#"CREATE_REPLICATION_SLOT "rowcast" TEMPORARY LOGICAL pgoutput (SNAPSHOT 'nothing')"#
    );
}

#[test]
fn a_publication_is_an_identifier_inside_a_literal() {
    let slot = "rowcast".parse().unwrap();
    let command = |publication: &str| {
        start_replication_command(&slot, &publication.parse().unwrap(), Lsn::ZERO)
    };
    assert_eq!(
        command("My Shop"),
        r#"START_REPLICATION SLOT "rowcast" LOGICAL 0/0 (proto_version '1', publication_names '"My Shop"', messages 'true')"#
    );
    assert!(command(r#"it's "x""#).contains(r#"publication_names '"it''s ""x"""',"#));
}

#[test]
fn a_message_is_taken_once_it_is_whole_and_leaves_what_follows() {
    let bytes = b"W\0\0\0\x07\0\0\0d\0";
    for split in 0..8 {
        let mut inbox = BytesMut::from(&bytes[..split]);
        assert!(matches!(take_reply(&mut inbox), Ok(None)), "{split}");
        assert_eq!(inbox, bytes[..split]);
    }
    let mut inbox = BytesMut::from(&bytes[..]);
    assert!(matches!(take_reply(&mut inbox), Ok(Some(Reply::CopyBoth))));
    assert_eq!(inbox, b"d\0"[..]);
}

#[test]
fn a_length_is_bounded_before_it_is_waited_for() {
    let mut inbox = BytesMut::from(&b"D\x7F\xFF\xFF\xFF"[..]);
    assert!(matches!(take_reply(&mut inbox), Err(Error::TooLong { tag: 'D', .. })));
    let mut inbox = BytesMut::from(&b"D\0\0\0\x03"[..]);
    assert!(matches!(take_reply(&mut inbox), Err(Error::Malformed(_))));
    let mut inbox = BytesMut::from(&b"HTTP/1.1 400 Bad Request"[..]);
    assert!(matches!(take_reply(&mut inbox), Err(Error::TooLong { tag: 'H', .. })));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(
        tag in prop::sample::select(b"RSKZETDCINWA".to_vec()),
        body in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let len = u32::try_from(body.len() + 4).unwrap();
        let mut inbox = BytesMut::from(&[tag][..]);
        inbox.extend_from_slice(&len.to_be_bytes());
        inbox.extend_from_slice(&body);
        match take_reply(&mut inbox) {
            Ok(Some(Reply::Message(Message::ErrorResponse(body)))) => {
                let _ = ServerError::parse(&body);
            }
            Ok(Some(Reply::Message(Message::DataRow(row)))) => {
                let _ = texts(&row);
            }
            Ok(Some(Reply::Message(Message::ParameterStatus(body)))) => {
                let _ = (body.name().is_ok(), body.value().is_ok());
            }
            Ok(Some(Reply::Message(Message::AuthenticationSasl(body)))) => {
                let _ = body.mechanisms().count();
            }
            _ => {}
        }
    }
}

#[test]
fn a_history_tells_where_a_timeline_was_left() {
    let history =
        "1\t0/3000060\tno recovery target specified\n\n2\t16/B374D848\tbefore 2000-01-01\n";
    assert_eq!(switch_point(history, 1), Some("0/3000060".parse().unwrap()));
    assert_eq!(switch_point(history, 2), Some("16/B374D848".parse().unwrap()));
    assert_eq!(switch_point(history, 3), None);
    assert_eq!(switch_point("", 1), None);
}
