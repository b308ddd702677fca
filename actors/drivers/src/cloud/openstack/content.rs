//! The content of an image on its way: told wrong at its end unless it has the length, and where the image's record
//! tells one the hash, that it should have.
//!
//! Glance hashes what it is given (`os_hash_algo`, SHA-512 unless it is configured otherwise; `os_hash_value`), and keeps
//! that beside the image and not with its content: what its store has lost or changed since differs. Chunks go on before
//! the whole is known to be right, so whoever reads takes nothing for good before the end.

use aws_lc_rs::digest::{Algorithm, Context, SHA256, SHA384, SHA512};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

pub(super) type Content = BoxStream<'static, std::io::Result<Bytes>>;

/// The hash that a content is to have.
#[derive(Debug, Clone)]
pub(super) struct Hash {
    algorithm: &'static Algorithm,
    /// In hexadecimal digits.
    value: String,
}

impl Hash {
    /// As the record of an image tells it; nothing if it tells none, or one that is not computed here.
    pub(super) fn of_record(algorithm: Option<&str>, value: Option<&str>) -> Option<Self> {
        let algorithm = match algorithm?.to_ascii_lowercase().as_str() {
            "sha256" => &SHA256,
            "sha384" => &SHA384,
            "sha512" => &SHA512,
            other => {
                tracing::debug!(algorithm = other, "the hash of an image is not compared");
                return None;
            }
        };
        Some(Self { algorithm, value: value?.to_ascii_lowercase() })
    }
}

/// What has come of a content so far.
struct Coming {
    content: Content,
    came: u64,
    bytes: u64,
    hash: Option<(Context, String)>,
    over: bool,
}

/// The same stream, which fails at its end unless it had just so many bytes, and this hash.
pub(super) fn whole(content: Content, bytes: u64, hash: Option<Hash>) -> Content {
    let hash = hash.map(|hash| (Context::new(hash.algorithm), hash.value));
    let coming = Coming { content, came: 0, bytes, hash, over: false };
    stream::unfold(coming, |mut coming| async move { Some((coming.next().await?, coming)) }).boxed()
}

impl Coming {
    async fn next(&mut self) -> Option<std::io::Result<Bytes>> {
        if self.over {
            return None;
        }
        let next = match self.content.next().await {
            Some(Ok(chunk)) => self.take(chunk),
            Some(Err(error)) => Err(error),
            None => match self.trouble() {
                None => return None,
                Some(trouble) => Err(trouble),
            },
        };
        self.over = next.is_err();
        Some(next)
    }

    fn take(&mut self, chunk: Bytes) -> std::io::Result<Bytes> {
        self.came += chunk.len() as u64;
        if self.came > self.bytes {
            return Err(wrong_length(self.came, self.bytes));
        }
        if let Some((context, _)) = &mut self.hash {
            context.update(&chunk);
        }
        Ok(chunk)
    }

    /// What is wrong with the whole.
    fn trouble(&mut self) -> Option<std::io::Error> {
        self.over = true;
        if self.came != self.bytes {
            return Some(wrong_length(self.came, self.bytes));
        }
        let (context, wanted) = self.hash.take()?;
        let found: String = context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let why = "the content has another hash than the image's record tells";
        (found != wanted).then(|| std::io::Error::new(std::io::ErrorKind::InvalidData, why))
    }
}

fn wrong_length(came: u64, bytes: u64) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::UnexpectedEof, format!("{came} of {bytes} bytes came"))
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;

    use super::*;

    /// SHA-256 of "abc" (FIPS 180-2, B.1).
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    async fn read(chunks: &[&'static str], bytes: u64, hash: Option<Hash>) -> Result<String, std::io::ErrorKind> {
        let chunks: Vec<_> = chunks.iter().map(|chunk| Ok(Bytes::from_static(chunk.as_bytes()))).collect();
        let content = whole(stream::iter(chunks).boxed(), bytes, hash);
        let read: Result<Vec<Bytes>, _> = content.try_collect().await;
        read.map(|all| String::from_utf8(all.concat()).unwrap()).map_err(|error| error.kind())
    }

    #[tokio::test]
    async fn a_content_as_its_record_tells_comes_as_it_is() {
        let hash = || Hash::of_record(Some("sha256"), Some(ABC));
        assert!(hash().is_some());
        assert_eq!(read(&["a", "", "bc"], 3, hash()).await, Ok("abc".to_owned()));
        assert_eq!(
            read(&["abc"], 3, Hash::of_record(Some("SHA256"), Some(&ABC.to_uppercase()))).await,
            Ok("abc".to_owned())
        );
        assert_eq!(read(&["abc"], 3, None).await, Ok("abc".to_owned()));
        assert_eq!(read(&[], 0, None).await, Ok(String::new()));
    }

    #[tokio::test]
    async fn another_content_of_the_same_length_is_an_error_at_its_end() {
        let hash = Hash::of_record(Some("sha256"), Some(ABC));
        assert_eq!(read(&["ab", "d"], 3, hash.clone()).await, Err(std::io::ErrorKind::InvalidData));
        let mut content = whole(stream::iter([Ok(Bytes::from_static(b"abd"))]).boxed(), 3, hash);
        assert!(content.next().await.unwrap().is_ok());
        assert!(content.next().await.unwrap().is_err());
        assert!(content.next().await.is_none());
    }

    #[tokio::test]
    async fn too_little_and_too_much_are_errors() {
        assert_eq!(read(&["ab"], 3, None).await, Err(std::io::ErrorKind::UnexpectedEof));
        assert_eq!(read(&["ab", "cd"], 3, None).await, Err(std::io::ErrorKind::UnexpectedEof));
    }

    #[test]
    fn a_hash_that_is_not_told_or_not_known_here_is_not_compared() {
        assert!(Hash::of_record(None, None).is_none());
        assert!(Hash::of_record(Some("sha512"), None).is_none());
        assert!(Hash::of_record(None, Some(ABC)).is_none());
        assert!(Hash::of_record(Some("whirlpool"), Some(ABC)).is_none());
        for (algorithm, digits) in [("sha256", 64), ("sha384", 96), ("sha512", 128)] {
            let hash = Hash::of_record(Some(algorithm), Some("0")).unwrap();
            assert_eq!(hash.algorithm.output_len * 2, digits);
        }
    }
}
