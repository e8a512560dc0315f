//! Sessions, batches and files, with good and with bad input.

use keyward::client::{Code, Context, Item, context};
use keyward::rpc::proto::{EncryptRequest, EncryptStreamRequest, StreamHeader, encrypt_stream_request};
use keyward_softhsm_tests::raw::Raw;
use keyward_softhsm_tests::{KEY, World, eventually};
use tonic_types::StatusExt;

fn about() -> Context {
    context([("column", "phone")])
}

#[tokio::test]
async fn empty_and_largest_plaintexts_pass_and_one_byte_more_does_not() {
    let world = World::ready();
    let (_daemon, client) = world.start_with_key().await;
    for size in [0, 1, 1 << 20] {
        let plaintext = vec![7; size];
        let sealed = client.encrypt(KEY, plaintext.clone(), &about()).await.unwrap();
        assert_eq!(sealed.ciphertext.len(), size + 92);
        assert_eq!(
            client.decrypt(KEY, sealed.ciphertext, &about()).await.unwrap().plaintext.expose(),
            plaintext
        );
    }
    let error = client.encrypt(KEY, vec![7; (1 << 20) + 1], &about()).await.unwrap_err();
    assert_eq!((error.code, error.reason()), (Code::InvalidArgument, "TOO_LARGE"));
    assert!(error.message.contains("1048577") && error.message.contains("limits.plaintext"), "{error}");
}

#[tokio::test]
async fn bytes_that_are_no_ciphertext_are_named() {
    let world = World::ready();
    let (_daemon, client) = world.start_with_key().await;
    let sealed = client.encrypt(KEY, "data", &about()).await.unwrap().ciphertext;
    let mut newer = sealed.to_vec();
    newer[2] = 2;
    let mut suite = sealed.to_vec();
    suite[3] = 9;
    for (bytes, words) in [
        (Vec::new(), "short"),
        (sealed[..91].to_vec(), "short"),
        (
            b"not a ciphertext at all, but long enough to have the length of one, and some more of it: yes"
                .to_vec(),
            "not",
        ),
        (newer, "format 2"),
        (suite, "suite"),
    ] {
        let error = client.decrypt(KEY, bytes, &about()).await.unwrap_err();
        assert_eq!((error.code, error.reason()), (Code::InvalidArgument, "CIPHERTEXT_MALFORMED"), "{error}");
        assert!(error.message.contains(words), "no {words:?} in {error}");
    }
    // An unknown data key, a cut tail and a wrong context all get the one answer.
    let mut unknown = sealed.to_vec();
    unknown[4] ^= 1;
    for bytes in [unknown, sealed[..sealed.len() - 1].to_vec()] {
        assert_eq!(client.decrypt(KEY, bytes, &about()).await.unwrap_err().reason(), "CIPHERTEXT_REFUSED");
    }
}

#[tokio::test]
async fn names_and_contexts_are_checked() {
    let world = World::ready();
    let (_daemon, client) = world.start_with_key().await;
    for (name, reason) in [
        ("customer-pii", "NAME_INVALID"),
        ("tenants/ACME/keys/customer-pii", "NAME_INVALID"),
        ("tenants/nobody/keys/customer-pii", "NOT_FOUND"),
        ("tenants/acme/keys/nothing", "NOT_FOUND"),
    ] {
        assert_eq!(client.encrypt(name, "x", &about()).await.unwrap_err().reason(), reason, "{name}");
    }
    let reserved = context([("keyward:class", "3")]);
    let many = context((0..65).map(|number| (format!("key-{number}"), "v")));
    let large = context([("key", "v".repeat(4097))]);
    for bad in [reserved, many, large] {
        let error = client.encrypt(KEY, "x", &bad).await.unwrap_err();
        assert_eq!((error.code, error.reason()), (Code::InvalidArgument, "CONTEXT_INVALID"), "{error}");
    }
}

#[tokio::test]
async fn a_batch_answers_each_item_and_refuses_too_many() {
    let world = World::ready();
    let (_daemon, client) = world.start_with_key().await;
    let item = |data: Vec<u8>| Item { data: data.into(), context: about() };
    let sealed: Vec<_> = (0..1000_u16).map(|number| item(number.to_be_bytes().to_vec())).collect();
    let mut sealed: Vec<_> = client
        .batch_encrypt(KEY, sealed)
        .await
        .unwrap()
        .into_iter()
        .map(|result| item(result.unwrap().to_vec()))
        .collect();
    sealed[17].context = context([("column", "card")]);
    let opened = client.batch_decrypt(KEY, sealed).await.unwrap();
    for (number, result) in opened.into_iter().enumerate() {
        match (number, result) {
            (17, result) => assert_eq!(result.unwrap_err().reason(), "CIPHERTEXT_REFUSED"),
            (_, result) => assert_eq!(result.unwrap().expose(), u16::try_from(number).unwrap().to_be_bytes()),
        }
    }
    let many = (0..1001).map(|_| item(vec![1])).collect();
    assert_eq!(client.batch_encrypt(KEY, many).await.unwrap_err().reason(), "TOO_LARGE");
    let large = (0..5).map(|_| item(vec![1; 1 << 20])).collect();
    let error = client.batch_encrypt(KEY, large).await.unwrap_err();
    assert!(error.reason() == "TOO_LARGE" || error.code == Code::OutOfRange, "{error}");

    let record = world.audit().into_iter().find(|record| record.operation == "batch-decrypt").unwrap();
    let items = record.items.unwrap();
    assert_eq!((items.done, items.refused, items.digests.unwrap().len()), (999, 1, 999));
    assert_eq!(record.detail.unwrap(), "refused: 1 CIPHERTEXT_REFUSED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_pipelines_many_calls_and_records_all() {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    let calls = (0..2000_u32).map(|number| {
        let client = client.clone();
        tokio::spawn(async move {
            let sealed = client.encrypt(KEY, number.to_string(), &about()).await.unwrap();
            let opened = client.decrypt(KEY, sealed.ciphertext, &about()).await.unwrap();
            assert_eq!(opened.plaintext.expose(), number.to_string().as_bytes());
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    daemon.stop().await;
    let recorded = |operation: &str| -> u32 {
        let records = world.audit().into_iter().filter(|record| record.operation == operation);
        records.filter_map(|record| record.items).map(|items| items.done).sum()
    };
    assert_eq!((recorded("session-encrypt"), recorded("session-decrypt")), (2000, 2000));
}

#[tokio::test]
async fn a_file_comes_back_and_a_cut_one_does_not() {
    let world = World::ready();
    let (_daemon, client) = world.start_with_key().await;
    for size in [0, 1, 65_536, 65_537, 3_000_000] {
        let plaintext: Vec<u8> = (0..size).map(|byte| (byte % 251) as u8).collect();
        let (mut sealed, mut opened) = (Vec::new(), Vec::new());
        client.encrypt_stream(KEY, &about(), &plaintext[..], &mut sealed).await.unwrap();
        client.decrypt_stream(KEY, &about(), &sealed[..], &mut opened).await.unwrap();
        assert_eq!(opened, plaintext, "{size} bytes");
        for cut in [sealed.len() - 1, sealed.len() / 2, 80, 10] {
            let mut partial = Vec::new();
            let error = client.decrypt_stream(KEY, &about(), &sealed[..cut], &mut partial).await;
            assert!(error.is_err(), "{size} bytes cut at {cut}");
            assert!(plaintext.starts_with(&partial));
        }
    }
    // A file is no field, and a field is no file.
    let mut sealed = Vec::new();
    client.encrypt_stream(KEY, &about(), &b"file"[..], &mut sealed).await.unwrap();
    assert_eq!(client.decrypt(KEY, sealed, &about()).await.unwrap_err().reason(), "CIPHERTEXT_REFUSED");
    let field = client.encrypt(KEY, "field", &about()).await.unwrap().ciphertext;
    assert!(client.decrypt_stream(KEY, &about(), &field[..], &mut Vec::new()).await.is_err());
}

#[tokio::test]
async fn a_data_key_opens_only_as_one() {
    let world = World::ready();
    let (_daemon, client) = world.start_with_key().await;
    let made = client.generate_data_key(KEY, &about()).await.unwrap();
    let opened = client.decrypt_data_key(KEY, made.sealed.ciphertext.clone(), &about()).await.unwrap();
    assert_eq!(opened.plaintext.expose(), made.key.expose());
    assert_eq!(
        client.decrypt(KEY, made.sealed.ciphertext, &about()).await.unwrap_err().reason(),
        "CIPHERTEXT_REFUSED"
    );
    let field = client.encrypt(KEY, [7; 32].to_vec(), &about()).await.unwrap().ciphertext;
    assert_eq!(
        client.decrypt_data_key(KEY, field, &about()).await.unwrap_err().reason(),
        "CIPHERTEXT_REFUSED"
    );
}

#[tokio::test]
async fn a_grant_allows_what_it_names() {
    let mut world = World::new();
    world.init();
    world.reconfigure(
        r#"operations = ["encrypt", "decrypt", "re-encrypt", "generate-data-key", "decrypt-data-key", "blind-index"]"#,
        r#"operations = ["encrypt"]"#,
    );
    let (_daemon, client) = world.start_with_key().await;
    let sealed = client.encrypt(KEY, "x", &about()).await.unwrap().ciphertext;
    let error = client.decrypt(KEY, sealed, &about()).await.unwrap_err();
    assert_eq!((error.code, error.reason()), (Code::PermissionDenied, "PERMISSION_DENIED"));
    assert!(error.message.contains("tester may not decrypt"), "{error}");
    let error = client.generate_data_key(KEY, &about()).await.unwrap_err();
    assert_eq!(error.reason(), "PERMISSION_DENIED");
}

#[tokio::test]
async fn a_stream_must_begin_with_its_header() {
    let world = World::ready();
    let (_daemon, client) = world.start_with_key().await;
    let chunk = encrypt_stream_request::Message::Chunk("x".into());
    let header =
        encrypt_stream_request::Message::Header(StreamHeader { name: KEY.into(), ..StreamHeader::default() });
    for messages in [vec![chunk.clone()], vec![], vec![header.clone(), header]] {
        let messages: Vec<_> =
            messages.into_iter().map(|message| EncryptStreamRequest { message: Some(message) }).collect();
        let mut answers =
            client.crypto().encrypt_stream(tokio_stream::iter(messages)).await.unwrap().into_inner();
        let failure = loop {
            match answers.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended well"),
                Err(status) => break status,
            }
        };
        assert_eq!(failure.get_details_error_info().unwrap().reason, "ARGUMENT_INVALID");
    }
}

#[tokio::test]
async fn a_request_that_does_not_decode_is_the_callers_fault() {
    let world = World::ready();
    let (_daemon, client) = world.start_with_key().await;
    let name = [&[0x0a, u8::try_from(KEY.len()).unwrap()], KEY.as_bytes()].concat();
    // Field 3, the context: one pair whose key is the byte 0xff.
    let not_utf8 = [&name[..], &[0x1a, 6, 0x0a, 1, 0xff, 0x12, 1, b'v']].concat();
    for message in [not_utf8, vec![0xff; 7]] {
        let mut grpc = tonic::client::Grpc::new(client.channel());
        grpc.ready().await.unwrap();
        let path = tonic::codegen::http::uri::PathAndQuery::from_static("/keyward.v1.CryptoService/Encrypt");
        let answer = grpc.unary(tonic::Request::new(message.into()), path, Raw).await;
        let error = answer.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert_eq!(error.get_details_error_info().unwrap().reason, "ARGUMENT_INVALID");
    }
}

#[tokio::test]
async fn a_deadline_is_honoured_and_health_and_reflection_answer() {
    let world = World::ready();
    let (_daemon, client) = world.start_with_key().await;
    let mut request = tonic::Request::new(EncryptRequest { name: KEY.into(), ..EncryptRequest::default() });
    request.set_timeout(std::time::Duration::from_nanos(1));
    let late = client.crypto().encrypt(request).await.unwrap_err();
    assert!(matches!(late.code(), Code::Cancelled | Code::DeadlineExceeded), "{late}");

    // Health follows within a moment.
    world.healthy(tonic_health::pb::health_check_response::ServingStatus::Serving).await;

    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_response::MessageResponse};
    let asked = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(client.channel());
    let mut answers =
        reflection.server_reflection_info(tokio_stream::iter([asked])).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list of services");
    };
    assert!(list.service.iter().any(|service| service.name == "keyward.v1.CryptoService"), "{list:?}");

    // By the name that it had before, which is all that many tools ask for.
    use tonic_reflection::pb::v1alpha;
    use v1alpha::server_reflection_client::ServerReflectionClient as Before;
    use v1alpha::server_reflection_request::MessageRequest as Asked;
    let asked = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(Asked::FileContainingSymbol("keyward.v1.CryptoService".into())),
    };
    let answers = Before::new(client.channel()).server_reflection_info(tokio_stream::iter([asked])).await;
    let answer = answers.unwrap().into_inner().message().await.unwrap().unwrap();
    use v1alpha::server_reflection_response::MessageResponse as Found;
    assert!(matches!(answer.message_response, Some(Found::FileDescriptorResponse(_))), "{answer:?}");
}

/// gRPC cores send the path of a Unix socket as authority, and HTTP/2 refuses it before any service sees the call: the
/// log says what the client must set, once a minute at most.
#[tokio::test]
async fn what_a_client_must_set_stands_in_the_log() {
    use keyward_softhsm_tests::wire::{END_HEADERS, HEADERS, Wire, frame, heads_to};
    let world = World::ready();
    let (daemon, _client) = world.start_with_key().await;
    let socket = world.socket();
    let attempts = tokio::task::spawn_blocking(move || {
        let mut wire = Wire::hello(&socket, 65_535).unwrap();
        for stream in [1, 3, 5] {
            let heads = heads_to("%2Frun%2Fkeyward%2Fkeyward.sock", "/keyward.v1.SystemService/GetStatus");
            wire.put(&frame(HEADERS, END_HEADERS | 1, stream, &heads));
        }
        wire.pump(std::time::Duration::from_millis(200));
    });
    attempts.await.unwrap();
    eventually("the log says it", || async { world.log().contains("grpc.default_authority").then_some(()) })
        .await;
    let log = world.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("authority")).collect();
    assert!(matches!(told[..], [line] if line.contains("localhost") && line.contains("%2Frun")), "{told:?}");
    assert!(daemon.stop().await.success());
}
