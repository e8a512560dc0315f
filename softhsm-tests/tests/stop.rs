//! An orderly stop finishes what is in flight.

use keyward::rpc::proto::{EncryptStreamRequest, StreamHeader, encrypt_stream_request::Message};
use keyward_softhsm_tests::{KEY, World};
use rustix::process::Signal;
use tokio_stream::wrappers::ReceiverStream;

fn message(message: Message) -> EncryptStreamRequest {
    EncryptStreamRequest { message: Some(message) }
}

#[tokio::test]
async fn a_file_that_was_begun_is_finished() {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    let (pieces, queue) = tokio::sync::mpsc::channel(4);
    let header = StreamHeader { name: KEY.into(), ..StreamHeader::default() };
    pieces.send(message(Message::Header(header))).await.unwrap();
    let mut answers = client.crypto().encrypt_stream(ReceiverStream::new(queue)).await.unwrap().into_inner();
    let mut sealed = answers.message().await.unwrap().unwrap().chunk.to_vec();
    daemon.signal(Signal::TERM);
    for _ in 0..8 {
        pieces.send(message(Message::Chunk(vec![7; 100_000].into()))).await.unwrap();
    }
    drop(pieces);
    while let Some(answer) = answers.message().await.unwrap() {
        sealed.extend_from_slice(&answer.chunk);
    }
    assert!(daemon.stop().await.success(), "{}", world.log());

    let daemon = world.start().await;
    let mut opened = Vec::new();
    let about = keyward::client::Context::new();
    daemon.client().await.decrypt_stream(KEY, &about, &sealed[..], &mut opened).await.unwrap();
    assert_eq!(opened, vec![7; 800_000]);
    let words: Vec<_> = world.audit().into_iter().map(|record| record.operation).collect();
    assert!(
        words.contains(&"stop".to_owned()) && words.contains(&"encrypt-stream-end".to_owned()),
        "{words:?}"
    );
}
