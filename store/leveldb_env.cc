// The one C++ file: an environment for LevelDB that closes two holes in its durability.
//
// 1. When LevelDB switches to a new memtable it drops the old write-ahead log file without
// syncing it. A later sync covers the new file only, so a power cut could lose earlier
// batches and keep later ones, the applied index included. Here every *.log file is
// synced before it is closed. If that sync fails, nothing after it may be called
// durable: every later append or sync of a log file in this environment fails too. The same
// after a failed append: what came behind half a record would not be read again.
//
// 2. Batches that were not synced are promised to be lost from the end only. But a power cut can
// leave a page of the log unwritten and later ones written, and LevelDB reads on behind such a hole
// (and behind zeros without a word): earlier batches gone, later ones kept, the applied
// index or the mark of a segment with them. Here a log is read as far as its records are whole and
// no further. A log that is not the newest was synced: if that one is damaged it is no power cut,
// and the state is refused as corrupt.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "leveldb/c.h"
#include "leveldb/env.h"

extern "C" {
#include "base/crc.h"
leveldb_env_t *leveldb_env_new_syncing(void);
void leveldb_env_free_syncing(leveldb_env_t *env);
}

// As LevelDB's own c.cc lays it out; checked by test_kv, which opens a store with it.
struct leveldb_env_t {
    leveldb::Env *rep;
    bool is_default;
};

namespace {

class SyncingFile : public leveldb::WritableFile {
  public:
    SyncingFile(leveldb::WritableFile *file, std::atomic<bool> *failed)
        : file_(file), failed_(failed) {}
    ~SyncingFile() override {
        (void)Close(); // a failure is remembered in failed_
        delete file_;
    }
    leveldb::Status Append(const leveldb::Slice &data) override {
        return failed_->load() ? Refusal() : Remember(file_->Append(data));
    }
    leveldb::Status Flush() override {
        return failed_->load() ? Refusal() : Remember(file_->Flush());
    }
    leveldb::Status Sync() override {
        return failed_->load() ? Refusal() : Remember(file_->Sync());
    }
    leveldb::Status Close() override {
        if (closed_) {
            return leveldb::Status::OK();
        }
        closed_ = true;
        leveldb::Status s = Remember(file_->Sync());
        leveldb::Status c = file_->Close();
        return s.ok() ? c : s;
    }

  private:
    static leveldb::Status Refusal() {
        return leveldb::Status::IOError("an earlier write of a log file failed");
    }
    leveldb::Status Remember(const leveldb::Status &s) {
        if (!s.ok()) {
            failed_->store(true);
        }
        return s;
    }
    leveldb::WritableFile *file_;
    std::atomic<bool> *failed_;
    bool closed_ = false;
};

// LevelDB's log format: blocks, in them records of masked CRC, length, type and payload; a batch is
// one record FULL, or FIRST, MIDDLE ..., LAST. What is left of a block is not used if it is shorter
// than a header.
enum { BLOCK_BYTES = 32768, HEADER_BYTES = 7 };
enum { TYPE_FULL = 1, TYPE_FIRST = 2, TYPE_MIDDLE = 3, TYPE_LAST = 4 };

bool RecordIsSound(const uint8_t *p, size_t len) {
    const uint32_t stored = static_cast<uint32_t>(p[0]) | static_cast<uint32_t>(p[1]) << 8 |
                            static_cast<uint32_t>(p[2]) << 16 | static_cast<uint32_t>(p[3]) << 24;
    const uint32_t crc = crc32c(0, p + 6, len + 1);
    return stored == ((crc >> 15 | crc << 17) + 0xa282ead8u);
}

// One whole block, or what there is before the end of the file.
leveldb::Status ReadBlock(leveldb::SequentialFile *file, uint8_t *to, size_t *n) {
    leveldb::Status s;
    leveldb::Slice got;
    for (*n = 0; *n < BLOCK_BYTES; *n += got.size()) {
        char *at = reinterpret_cast<char *>(to) + *n;
        s = file->Read(BLOCK_BYTES - *n, &got, at);
        if (!s.ok() || got.empty()) {
            break;
        }
        if (got.data() != at) {
            std::copy(got.data(), got.data() + got.size(), at);
        }
    }
    return s;
}

struct Extent {
    uint64_t whole = 0; // bytes of the batches that it begins with
    uint64_t size = 0;  // bytes that were looked at: more when something follows them
};

leveldb::Status FindExtent(leveldb::SequentialFile *file, Extent *out) {
    std::unique_ptr<uint8_t[]> block(new uint8_t[BLOCK_BYTES]);
    bool inside = false; // of a batch in several records
    for (uint64_t start = 0;; start += BLOCK_BYTES) {
        size_t n = 0;
        size_t at = 0;
        const leveldb::Status s = ReadBlock(file, block.get(), &n);
        if (!s.ok()) {
            return s;
        }
        out->size = start + n;
        while (at + HEADER_BYTES <= n) {
            const uint8_t *p = block.get() + at;
            const size_t len = static_cast<size_t>(p[4]) | static_cast<size_t>(p[5]) << 8;
            const bool fits = inside ? p[6] == TYPE_MIDDLE || p[6] == TYPE_LAST
                                     : p[6] == TYPE_FULL || p[6] == TYPE_FIRST;
            if (!fits || len > n - at - HEADER_BYTES || !RecordIsSound(p, len)) {
                return s;
            }
            at += HEADER_BYTES + len;
            inside = p[6] == TYPE_FIRST || p[6] == TYPE_MIDDLE;
            out->whole = inside ? out->whole : start + at;
        }
        if (n < BLOCK_BYTES) {
            return s;
        }
    }
}

// Ends where the whole batches end.
class PrefixFile : public leveldb::SequentialFile {
  public:
    PrefixFile(leveldb::SequentialFile *file, uint64_t bytes) : file_(file), left_(bytes) {}
    leveldb::Status Read(size_t n, leveldb::Slice *result, char *scratch) override {
        leveldb::Status s = file_->Read(n < left_ ? n : static_cast<size_t>(left_), result, scratch);
        left_ -= s.ok() ? result->size() : 0;
        return s;
    }
    leveldb::Status Skip(uint64_t n) override {
        n = n < left_ ? n : left_;
        left_ -= n;
        return file_->Skip(n);
    }

  private:
    std::unique_ptr<leveldb::SequentialFile> file_;
    uint64_t left_;
};

bool IsLog(const std::string &name) {
    const size_t n = name.size();
    return n > 4 && name.compare(n - 4, 4, ".log") == 0;
}

class SyncingEnv : public leveldb::EnvWrapper {
  public:
    SyncingEnv() : leveldb::EnvWrapper(leveldb::Env::Default()) {}
    leveldb::Status NewWritableFile(const std::string &name,
                                    leveldb::WritableFile **out) override {
        return Wrap(name, target()->NewWritableFile(name, out), out);
    }
    leveldb::Status NewAppendableFile(const std::string &name,
                                      leveldb::WritableFile **out) override {
        return Wrap(name, target()->NewAppendableFile(name, out), out);
    }
    // Logs are read when a database is opened, the oldest first.
    leveldb::Status NewSequentialFile(const std::string &name,
                                      leveldb::SequentialFile **out) override {
        leveldb::Status s = target()->NewSequentialFile(name, out);
        if (!s.ok() || !IsLog(name)) {
            return s;
        }
        std::unique_ptr<leveldb::SequentialFile> first(*out);
        *out = nullptr;
        Extent e;
        s = FindExtent(first.get(), &e);
        if (s.ok() && e.whole > 0 && cut_) {
            s = leveldb::Status::Corruption(name, "a log before it is damaged");
        }
        if (s.ok()) {
            s = target()->NewSequentialFile(name, out);
        }
        if (s.ok()) {
            cut_ = cut_ || e.whole < e.size;
            *out = new PrefixFile(*out, e.whole);
        }
        return s;
    }

  private:
    leveldb::Status Wrap(const std::string &name, const leveldb::Status &s,
                         leveldb::WritableFile **out) {
        if (s.ok() && IsLog(name)) {
            *out = new SyncingFile(*out, &failed_);
        }
        return s;
    }
    std::atomic<bool> failed_{false};
    bool cut_ = false; // a log that was read did not hold to its end
};

} // namespace

leveldb_env_t *leveldb_env_new_syncing(void)
{
    leveldb_env_t *env = new leveldb_env_t;
    env->rep = new SyncingEnv;
    env->is_default = false;
    return env;
}

void leveldb_env_free_syncing(leveldb_env_t *env)
{
    delete env->rep;
    delete env;
}
