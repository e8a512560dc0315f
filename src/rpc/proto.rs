//! Types and traits generated from `proto/keyward/v1`.
#![allow(missing_docs, unreachable_pub, clippy::too_many_lines, clippy::or_fun_call)]

tonic::include_proto!("keyward.v1");

/// The descriptors of all services, for reflection.
pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("descriptors");
