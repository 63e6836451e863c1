#pragma once

#include "store/sqlite_file.h"

namespace virga {

/// The file of SqliteJournal, for who writes it and who audits it.
const sqlite::FileKind& journal_file_kind();

}  // namespace virga
