// The one C++ file: an environment for LevelDB that closes a hole in its durability.
//
// When LevelDB switches to a new memtable it drops the old write-ahead log file without
// syncing it. A later sync covers the new file only, so a power cut could lose earlier
// batches and keep later ones, the applied index included. Here every *.log file is
// synced before it is closed. If that sync fails, nothing after it may be called
// durable: every later append or sync of a log file in this environment fails too.
#include <atomic>
#include <string>

#include "leveldb/c.h"
#include "leveldb/env.h"

extern "C" {
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
        return failed_->load() ? Refusal() : file_->Append(data);
    }
    leveldb::Status Flush() override { return file_->Flush(); }
    leveldb::Status Sync() override { return failed_->load() ? Refusal() : file_->Sync(); }
    leveldb::Status Close() override {
        if (closed_) {
            return leveldb::Status::OK();
        }
        closed_ = true;
        leveldb::Status s = file_->Sync();
        if (!s.ok()) {
            failed_->store(true);
        }
        leveldb::Status c = file_->Close();
        return s.ok() ? c : s;
    }

  private:
    static leveldb::Status Refusal() {
        return leveldb::Status::IOError("an earlier log file could not be synced");
    }
    leveldb::WritableFile *file_;
    std::atomic<bool> *failed_;
    bool closed_ = false;
};

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

  private:
    leveldb::Status Wrap(const std::string &name, const leveldb::Status &s,
                         leveldb::WritableFile **out) {
        const size_t n = name.size();
        if (s.ok() && n > 4 && name.compare(n - 4, 4, ".log") == 0) {
            *out = new SyncingFile(*out, &failed_);
        }
        return s;
    }
    std::atomic<bool> failed_{false};
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
