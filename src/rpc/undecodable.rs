//! Requests that are no messages of this API.
//!
//! The generated code answers INTERNAL when a request does not decode, as if it
//! were our fault: a string that is not UTF-8, say. Here it becomes what it is.

use tonic::body::Body;
use tonic::codegen::http::Response;
use tonic::{Code, Status};

use super::status::status;
use crate::ops::Error;

/// How the codec begins its complaint.
const COMPLAINT: &str = "failed to decode Protobuf message: ";

/// Names an undecodable request as an invalid argument.
pub fn name_undecodable(response: Response<Body>) -> Response<Body> {
    let complaint = Status::from_header_map(response.headers())
        .filter(|status| status.code() == Code::Internal)
        .and_then(|status| status.message().strip_prefix(COMPLAINT).map(str::to_owned));
    match complaint {
        Some(complaint) => {
            let error = Error::Argument(format!("the request is not a message of this API: {complaint}"));
            status(&error).into_http()
        }
        None => response,
    }
}
