#pragma once

#include <string>
#include <vector>

#include "base/reflect.h"
#include "model/meta.h"

namespace virga {

struct TenantSpec {
  std::vector<std::string> regions;  ///< where its guests and its data may be, at most 16; empty = anywhere
};
BOOST_DESCRIBE_STRUCT(TenantSpec, (), (regions))

/// What holds for all that a tenant has. A tenant without a record may do what records can forbid.
struct Tenant {
  Meta meta;
  TenantSpec spec;

  TenantId id() const { return TenantId(meta.name); }
};
BOOST_DESCRIBE_STRUCT(Tenant, (), (meta, spec))

// Read and written in one translation unit (model/json.cc): reflection is dear to compile.
extern template json::value to_json<Tenant>(const Tenant&);
extern template Result<Tenant> from_json<Tenant>(const json::value&, UnknownFields);

}  // namespace virga
