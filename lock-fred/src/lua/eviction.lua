-- Whether this server evicts what has a ttl when its memory is used up. Answers keeps; evicts and the policy; or untold, where
-- the user must not ask: looked up first, because what is refused is logged by the server as an attack might be.
local function eviction()
  if not redis.acl_check_cmd or not redis.acl_check_cmd('INFO', 'memory') then return {'untold'} end
  local info = call('INFO', 'memory')
  local limit, policy = info:match('\nmaxmemory:(%d+)'), info:match('\nmaxmemory_policy:([%w-]+)')
  if not limit or not policy then return {'untold'} end
  if limit == '0' or policy == 'noeviction' then return {'keeps'} end
  return {'evicts', policy}
end

return answer(eviction)
